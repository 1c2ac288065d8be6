"""Pairs: who has won, by strength and by all of its own pairs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portia.pairs import decide_pairs
from portia.verdict import TIE, Verdict, Vote, decide

Choose = Callable[[str, str], str | None]
choice = st.sampled_from(["first", "second", "tie", None])


def judged(
    texts: list[str], choose: Choose, value: Callable[[str, int], float] | None = None
) -> Verdict:
    """Ask a judge that is shown two texts in order, and says which of them, "tie" or None.

    value  of a text in a slot, where the judge has values
    """
    votes, verdicts = [], {}
    for pair in itertools.combinations(range(len(texts)), 2):
        own = []
        for order in (pair, pair[::-1]):
            values = value and tuple(value(texts[i], slot) for slot, i in enumerate(order))
            own.append(Vote(order, _index(texts, order, choose), values))
        votes += own
        in_pair = [
            Vote(tuple(map(pair.index, vote.by_slot)), _place(vote, pair), vote.values)
            for vote in own
        ]
        verdicts[pair] = decide(in_pair, [texts[index] for index in pair])
    verdict, order = decide_pairs(votes, verdicts, texts)
    assert verdict.slot_bias == order.value
    return verdict


def _index(texts: list[str], order: tuple[int, ...], choose: Choose) -> int | None:
    said = choose(*(texts[index] for index in order))
    return {"first": order[0], "second": order[1], "tie": TIE, None: None}[said]


def _place(vote: Vote, pair: tuple[int, int]) -> int | None:
    return vote.choice if vote.choice in (TIE, None) else pair.index(vote.choice)


@pytest.mark.parametrize(
    ("choose", "status"),
    [
        (lambda one, other: "first" if (ord(other) - ord(one)) % 3 == 1 else "second", "tie"),
        (lambda one, other: "tie", "tie"),
        (lambda one, other: "second" if other == "x" else "first", "consistent"),
        (lambda one, other: "first", "order_conflict"),
        (lambda one, other: None, "unparsed"),
    ],
    ids=["cycle", "ties", "best", "slot", "unread"],
)
def test_the_status_tells_why_nobody_has_won(choose: Choose, status: str) -> None:
    verdict = judged(["x", "y", "z"], choose)
    assert verdict.status == status
    assert verdict.winner == (0 if status == "consistent" else None)


@given(st.permutations("vwxyz"), st.lists(choice, min_size=25, max_size=25))
def test_the_numbering_changes_no_bit(texts: list[str], said: list[str | None]) -> None:
    def choose(one: str, other: str) -> str | None:
        return said[5 * "vwxyz".index(one) + "vwxyz".index(other)]

    one, other = judged(list("vwxyz"), choose), judged(texts, choose)
    assert [("vwxyz"[index], score) for index, score in one.ranking] == [
        (texts[index], score) for index, score in other.ranking
    ]
    assert (one.status, one.margin, one.slot_bias) == (other.status, other.margin, other.slot_bias)
    assert one.intervals == other.intervals


@given(st.permutations(["a", "bb", "cccc", "ddd"]))
def test_of_a_judge_of_slots_the_values_tell_whom_it_prefers(texts: list[str]) -> None:
    verdict = judged(texts, lambda one, other: "first", lambda text, slot: len(text) - 9.0 * slot)
    assert (verdict.status, verdict.winner) == ("order_conflict", None)
    assert verdict.preferred == verdict.ranking[0][0] == texts.index("cccc")
    assert verdict.margin == pytest.approx(0.0, abs=1e-9)
    silent = judged(texts, lambda one, other: "first")
    assert silent.preferred is None
    blind = judged(texts, lambda one, other: "first", lambda text, slot: -9.0 * slot)
    assert blind.preferred is None


def test_the_strongest_is_preferred_and_of_equal_texts_none() -> None:
    def longer(one: str, other: str) -> str:
        return "tie" if one == other else "first" if len(one) > len(other) else "second"

    assert judged(["a", "bbb", "cc"], longer).preferred == 1
    twins = judged(["bbb", "a", "bbb"], longer, lambda text, slot: len(text) - slot / 3)
    assert (twins.preferred, twins.winner, twins.status) == (None, None, "tie")


def test_a_conflict_among_others_does_not_cost_the_win() -> None:
    verdict = judged(
        ["best", "b", "c"], lambda one, other: "second" if other == "best" else "first"
    )
    assert (verdict.winner, verdict.status) == (0, "consistent")
    assert verdict.ranking[0][0] == 0
    assert verdict.intervals[0][0] < (verdict.ranking[0][1] or 0) < verdict.intervals[0][1]
