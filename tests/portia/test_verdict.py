"""The judge's arithmetic, as laws."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portia.rank import borda, rank
from portia.verdict import TIE, Vote, decide

logprob = st.floats(-30, 0, allow_nan=False)


def best(by_slot: tuple[int, ...], logprobs: tuple[float, ...], tie: float = -99.0) -> Vote:
    """Return the vote of a judge that takes its greatest label."""
    most = max(*logprobs, tie)
    top = [index for index, value in zip(by_slot, logprobs, strict=True) if value == most]
    return Vote(by_slot, top[0] if len(top) == 1 else TIE, logprobs)


def square(scores: list[list[float]]) -> list[Vote]:
    """Return the votes of a Latin square; row = order, column = slot."""
    count = len(scores)
    orders = [tuple((turn + slot) % count for slot in range(count)) for turn in range(count)]
    return [best(order, tuple(row)) for order, row in zip(orders, scores, strict=True)]


@given(logprob, logprob, logprob, logprob)
def test_two_candidates_give_the_papers_margin_and_bias(
    a1: float, b1: float, a2: float, b2: float
) -> None:
    first, second = a1 - b1, a2 - b2  # log-odds of the first slot: x first, then y first
    verdict = decide([best((0, 1), (a1, b1)), best((1, 0), (a2, b2))], ["x", "y"])
    assert verdict.margin == abs((first - second) / 2)
    assert verdict.slot_bias == (first + second) / 2


@given(logprob, logprob, logprob, logprob)
def test_swapping_the_answers_mirrors_the_verdict(
    a1: float, b1: float, a2: float, b2: float
) -> None:
    one = decide([best((0, 1), (a1, b1)), best((1, 0), (a2, b2))], ["x", "y"])
    other = decide([best((1, 0), (a1, b1)), best((0, 1), (a2, b2))], ["y", "x"])
    mirror = {0: 1, 1: 0, None: None}
    assert other.winner == mirror[one.winner]
    assert (other.status, other.margin, other.slot_bias) == (
        one.status,
        one.margin,
        one.slot_bias,
    )


@given(logprob, logprob, logprob, logprob, st.floats(0, 5), st.sampled_from([None, 0, 1, TIE]))
def test_whom_the_margin_speaks_for_is_preferred_whatever_was_said(
    a1: float, b1: float, a2: float, b2: float, tie_margin: float, choice: int | None
) -> None:
    votes = [Vote((0, 1), choice, (a1, b1)), Vote((1, 0), 0, (b2, a2))]
    verdict = decide(votes, ["x", "y"], tie_margin=tie_margin)
    lead = math.fsum([a1 - b1, a2 - b2]) / 2
    assert verdict.margin == (max(0.0, lead) if choice == 0 else abs(lead))
    if choice == 0:
        assert verdict.preferred == 0  # all chose it, so it is the winner if anybody is
    else:
        assert verdict.preferred == (None if lead == 0 else 0 if lead > 0 else 1)
    assert (verdict.status == "tie") == (choice is not None and verdict.margin <= tie_margin)
    if verdict.winner is not None:
        assert verdict.winner == verdict.preferred
    mirrored = [
        Vote((1, 0), choice if choice in (None, TIE) else 1 - choice, (a1, b1)),
        Vote((0, 1), 1, (b2, a2)),
    ]
    other = decide(mirrored, ["y", "x"], tie_margin=tie_margin)
    mirror = {0: 1, 1: 0, None: None}
    assert (other.preferred, other.winner) == (mirror[verdict.preferred], mirror[verdict.winner])
    assert (other.status, other.margin) == (verdict.status, verdict.margin)


@given(
    st.lists(st.lists(logprob, min_size=4, max_size=4), min_size=4, max_size=4),
    st.sampled_from(["mean", "kemeny", "borda"]),
    st.floats(0, 3),
)
def test_of_many_the_margin_is_the_preferreds(
    scores: list[list[float]], method: Literal["mean", "kemeny", "borda"], tie_margin: float
) -> None:
    votes, texts = square(scores), list("wxyz")
    verdict = decide(votes, texts, method=method, tie_margin=tie_margin)
    (first, best), (_, next_) = verdict.ranking[:2]
    assert best is not None and next_ is not None and verdict.margin is not None
    assert verdict.preferred in (None, first)
    assert verdict.margin == pytest.approx(max(0.0, best - next_), abs=1e-9)
    assert (verdict.status == "tie") == (
        verdict.margin <= tie_margin or decide(votes, texts, method=method).status == "tie"
    )
    if verdict.preferred is None:
        assert best == pytest.approx(next_)


def test_of_calls_that_only_chose_most_is_preferred() -> None:
    def preferred(*choices: int | None, texts: str = "xy") -> int | None:
        orders = itertools.cycle([(0, 1), (1, 0)])
        votes = [Vote(order, choice) for order, choice in zip(orders, choices, strict=False)]
        return decide(votes, list(texts)).preferred

    assert preferred(1) == preferred(1, 1) == preferred(1, TIE) == preferred(1, None) == 1
    assert preferred(0, 1) is preferred(TIE, TIE) is preferred(None) is None
    assert preferred(0, 0, texts="xx") is None


def test_equal_answers_and_equal_values_prefer_nobody() -> None:
    assert decide([Vote((0, 1), 0, (-1.0, -2.0))], ["x", "x"]).preferred is None
    assert decide([Vote((0, 1), TIE, (-1.0, -1.0))], ["x", "y"]).preferred is None
    twins = [best((0, 1, 2), (-1.0, -1.0, -5.0)), best((1, 2, 0), (-1.0, -5.0, -1.0))]
    assert decide(twins, ["same", "same", "bad"]).preferred is None


def test_a_lead_that_two_scores_cannot_tell_is_still_one() -> None:
    a1, b1 = -9.74697442173512, -28.333453831098335
    a2, b2 = -20.790833038842337, -2.2043536294791197
    found = []
    for texts in ("xy", "yx"):
        verdict = decide([Vote((0, 1), 0, (a1, b1)), Vote((1, 0), 1, (b2, a2))], texts)
        assert [score for _, score in verdict.ranking] == [0.0, 0.0]
        found.append((verdict.preferred, verdict.margin))
    assert found == [(1, 1.7763568394002505e-15)] * 2


def test_what_could_not_be_read_is_no_tie_by_margin() -> None:
    votes = [Vote((0, 1), None, (-1.0, -1.1)), Vote((1, 0), 0, (-1.1, -1.0))]
    verdict = decide(votes, ["x", "y"], tie_margin=5.0)
    assert (verdict.status, verdict.preferred) == ("unparsed", 0)
    silent = decide([Vote((0, 1), 0), Vote((1, 0), 0)], ["x", "y"], tie_margin=5.0)
    assert (silent.status, silent.winner) == ("consistent", 0)


@given(logprob, logprob)
def test_a_judge_of_slots_conflicts_with_no_margin(lead: float, other: float) -> None:
    lead = max(lead, other + 1.0)
    verdict = decide([best((0, 1), (lead, other)), best((1, 0), (lead, other))], ["x", "y"])
    assert (verdict.status, verdict.winner, verdict.margin) == ("order_conflict", None, 0.0)
    assert verdict.slot_bias == lead - other


@given(st.lists(st.lists(logprob, min_size=4, max_size=4), min_size=4, max_size=4), st.data())
def test_the_numbering_and_the_order_of_calls_do_not_matter(
    scores: list[list[float]], data: st.DataObject
) -> None:
    votes = square(scores)
    number = data.draw(st.permutations(range(4)))
    shuffled = data.draw(st.permutations(votes))
    renamed = [
        Vote(
            tuple(number[index] for index in vote.by_slot),
            vote.choice if vote.choice in (TIE, None) else number[vote.choice],
            vote.values,
        )
        for vote in shuffled
    ]
    texts = [""] * 4
    for index, name in enumerate("wxyz"):
        texts[number[index]] = name
    one, other = decide(votes, list("wxyz")), decide(renamed, texts)
    assert (one.status, one.margin, one.slot_bias) == (other.status, other.margin, other.slot_bias)
    assert other.winner == (None if one.winner is None else number[one.winner])
    assert dict(other.ranking) == {number[index]: score for index, score in one.ranking}


@given(st.lists(st.lists(logprob, min_size=5, max_size=5), min_size=5, max_size=5))
def test_the_ranking_leads_with_the_winner_and_falls(scores: list[list[float]]) -> None:
    verdict = decide(square(scores), list("vwxyz"), method="mean")
    found = [score for _, score in verdict.ranking if score is not None]
    assert len(found) == 5
    assert sorted(index for index, _ in verdict.ranking) == [0, 1, 2, 3, 4]
    assert verdict.margin is not None and verdict.margin >= 0
    if verdict.winner is None:
        assert found == sorted(found, reverse=True)
    else:
        assert verdict.ranking[0][0] == verdict.winner
        assert found[0] == pytest.approx(max(found))


def test_slot_bias_of_three_is_what_each_slot_gets_above_the_mean() -> None:
    bias, worth = [0.5, 0.0, -0.5], [-1.0, -2.0, -3.0]
    votes = square([[worth[(turn + s) % 3] + bias[s] for s in range(3)] for turn in range(3)])
    verdict = decide(votes, ["x", "y", "z"])
    assert verdict.slot_bias == pytest.approx(bias)
    assert [score for _, score in verdict.ranking] == pytest.approx([1.0, 0.0, -1.0])
    assert verdict.margin == pytest.approx(1.0)


def test_one_call_is_single_unless_no_order_can_change_it() -> None:
    vote = best((0, 1), (-0.1, -3.0))
    assert decide([vote], ["x", "y"]).status == "single"
    assert decide([vote], ["x", "y"], order_free=True).status == "consistent"
    assert decide([vote], ["x", "y"]).slot_bias is None
    assert decide([vote], ["x", "y"]).margin == pytest.approx(2.9)


@pytest.mark.parametrize(
    ("choices", "status"),
    [
        ((0, 0), "consistent"),
        ((TIE, TIE), "tie"),
        ((0, 1), "order_conflict"),
        ((0, TIE), "order_conflict"),  # a conflict is never folded into a tie
        ((None, 0), "unparsed"),
        ((None, None), "unparsed"),
        ((None, TIE), "unparsed"),
    ],
)
def test_the_status_of_two_calls(choices: tuple[int | None, int | None], status: str) -> None:
    votes = [Vote((0, 1), choices[0]), Vote((1, 0), choices[1])]
    verdict = decide(votes, ["x", "y"])
    assert verdict.status == status
    assert verdict.winner == (0 if status == "consistent" else None)
    assert (verdict.margin, verdict.slot_bias, verdict.ranking) == (None, None, ())


def test_an_unparsed_call_still_reports_its_margin() -> None:
    votes = [Vote((0, 1), None, (-9.0, -8.0)), best((1, 0), (-0.1, -3.0))]
    verdict = decide(votes, ["x", "y"])
    assert (verdict.status, verdict.winner) == ("unparsed", None)
    assert verdict.margin == pytest.approx(1.95)


@pytest.mark.parametrize("order_free", [True, False])
def test_answers_of_equal_text_tie(order_free: bool) -> None:
    first_slot = [best((0, 1), (-0.1, -3.0)), best((1, 0), (-0.1, -3.0))]
    for votes in (first_slot, first_slot[:1]):
        verdict = decide(votes, ["same", "same"], order_free=order_free)
        assert (verdict.status, verdict.winner, verdict.margin) == ("tie", None, 0.0)


def test_the_best_of_two_equal_and_a_better_one_is_the_better_one() -> None:
    for places in itertools.permutations(range(3)):
        texts = [["same", "same", "good"][place] for place in places]
        good = texts.index("good")
        votes = [
            best(order, tuple(-0.1 if texts[index] == "good" else -3.0 for index in order))
            for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
        ]
        verdict = decide(votes, texts)
        assert (verdict.status, verdict.winner) == ("consistent", good)
        assert verdict.margin == pytest.approx(2.9)


def test_the_winner_leads_the_ranking_even_by_less_than_a_score_can_tell() -> None:
    close = math.nextafter(-0.5, 0.0)
    votes = [best((0, 1, 2), (-0.5, close, -1e9)), best((1, 2, 0), (close, -1e9, -0.5))]
    votes.append(best((2, 0, 1), (-1e9, -0.5, close)))
    verdict = decide(votes, ["x", "y", "z"])
    scores = dict(verdict.ranking)
    assert scores[0] == scores[1]  # the difference is lost beside the third one's
    assert verdict.ranking[0][0] == verdict.winner == 1
    assert verdict.margin is not None and verdict.margin > 0


def test_scores_equal_but_for_rounding_rank_the_same_in_any_order_of_the_calls() -> None:
    votes = square([[0.0] * 4, [0.0] * 4, [0.0] * 4, [0.0, 0.0, -1.0, -5.75e-21]])
    found = {decide(list(order), list("wxyz")) for order in itertools.permutations(votes)}
    assert len(found) == 1


@given(
    st.lists(st.lists(logprob, min_size=5, max_size=5), min_size=5, max_size=5),
    st.sampled_from(["kemeny", "borda"]),
)
def test_a_consensus_of_the_calls_ranks_by_how_many_prefer_whom(
    scores: list[list[float]], method: Literal["kemeny", "borda"]
) -> None:
    votes = square(scores)
    verdict = decide(votes, list("vwxyz"), method=method)
    mean = decide(votes, list("vwxyz"), method="mean")
    assert verdict.method == method
    assert dict(verdict.ranking) == dict(mean.ranking)  # the scores are the means all the same
    wins = [[0.0] * 5 for _ in range(5)]
    for vote in votes:
        assert vote.values is not None
        for one, first in zip(vote.by_slot, vote.values, strict=True):
            for other, second in zip(vote.by_slot, vote.values, strict=True):
                wins[one][other] += first > second
    order = [index for index, _ in verdict.ranking]
    best = rank(wins) if method == "kemeny" else borda(wins)
    against = sum(wins[worse][better] for better, worse in itertools.combinations(order, 2))
    assert method == "borda" or against == best.disagreement
    if verdict.winner is not None:
        assert order[0] == verdict.winner


def test_the_consensus_can_differ_from_the_mean() -> None:
    votes = [  # two calls like w a little, one dislikes it a lot
        Vote((0, 1, 2), 0, (-1.0, -1.1, -2.0)),
        Vote((1, 2, 0), 0, (-1.1, -2.0, -1.0)),
        Vote((2, 0, 1), 1, (-2.0, -9.0, -1.0)),
    ]
    ranked = {
        method: [index for index, _ in decide(votes, list("wxy"), method=method).ranking]
        for method in ("mean", "kemeny", None)
    }
    assert ranked == {"mean": [1, 2, 0], "kemeny": [0, 1, 2], None: [0, 1, 2]}


@pytest.mark.parametrize("method", ["mean", "kemeny", "borda"])
def test_whom_all_chose_leads_even_where_the_values_say_otherwise(
    method: Literal["mean", "kemeny", "borda"],
) -> None:
    votes = [Vote((0, 1, 2), 0, (5.0, 6.0, 1.0)), Vote((1, 2, 0), 0, (6.0, 1.0, 5.0))]
    verdict = decide(votes, list("wxy"), method=method)  # most samples chose w, x has the mean
    assert (verdict.winner, verdict.ranking[0][0], verdict.margin) == (0, 0, 0.0)


def test_calls_that_only_chose_rank_many_candidates() -> None:
    votes = [Vote((0, 1, 2), 1), Vote((1, 2, 0), 1), Vote((2, 0, 1), 2)]
    verdict = decide(votes, list("wxy"))
    assert (verdict.ranking, verdict.method) == (((1, None), (2, None), (0, None)), "kemeny")
    assert (verdict.status, verdict.margin) == ("order_conflict", None)
    assert decide(votes, list("wxy"), method="mean").ranking == ()
    same = [Vote((0, 1, 2), 0), Vote((1, 2, 0), 2), Vote((2, 0, 1), TIE)]
    assert [index for index, _ in decide(same, ["x", "a", "x"]).ranking] == [0, 2, 1]


def test_above_twelve_candidates_borda_ranks() -> None:
    texts = [f"{place:02}" for place in range(13)]
    scores = [[float(-((turn + slot) % 13)) for slot in range(13)] for turn in range(13)]
    verdict = decide(square(scores), texts)
    assert verdict.method == "borda"
    assert [index for index, _ in verdict.ranking] == list(range(13))
    with pytest.raises(ValueError, match="at most 12"):
        decide(square(scores), texts, method="kemeny")
