"""The ladder: it stops at the first agreement, never spends too much, and is its own mirror."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portia.consensus import Outcome, Rung, climb
from portia.verdict import TIE, Vote, decide

choice = st.sampled_from([0, 1, TIE, None])
TEXTS = ["x", "y"]
SETTLED = ("consistent", "tie")


def votes_of(choices: Sequence[int | None]) -> list[Vote]:
    return [Vote((0, 1), choices[0]), Vote((1, 0), choices[1])]


def walk(
    rungs: Sequence[Rung], votes: Sequence[Sequence[Vote]], texts: Sequence[str], most: int
) -> tuple[Outcome, list[Rung]]:
    """Climb, answering every rung with its votes."""
    ladder, asked = climb(rungs, texts, most), []
    try:
        rung = next(ladder)
        while True:
            asked.append(rung)
            rung = ladder.send(votes[rungs.index(rung)])
    except StopIteration as end:
        assert isinstance(end.value, Outcome)
        return end.value, asked


ladders = st.lists(st.tuples(st.integers(1, 4), choice, choice), min_size=1, max_size=4)


@given(ladders, st.integers(0, 8))
def test_the_climb_ends_at_the_first_agreement_within_its_calls(
    steps: list[tuple[int, int | None, int | None]], spare: int
) -> None:
    rungs = [Rung(f"rung {place}", calls) for place, (calls, _, _) in enumerate(steps)]
    votes = [votes_of(step[1:]) for step in steps]
    most = rungs[0].calls + spare
    outcome, asked = walk(rungs, votes, TEXTS, most)
    verdicts = [decide(cast, TEXTS) for cast in votes[: len(asked)]]
    assert outcome.tried == tuple(asked) == tuple(rungs[: len(asked)])
    assert outcome.verdict == verdicts[-1]
    assert sum(rung.calls for rung in asked) <= most
    assert all(verdict.status not in SETTLED for verdict in verdicts[:-1])
    settled = verdicts[-1].status in SETTLED
    assert outcome.rung == (asked[-1] if settled else None)
    assert outcome.stopped == (not settled and len(asked) < len(rungs))
    if outcome.stopped:
        assert sum(rung.calls for rung in rungs[: len(asked) + 1]) > most


@given(ladders)
def test_exchanging_the_candidates_exchanges_the_winner(
    steps: list[tuple[int, int | None, int | None]],
) -> None:
    rungs = [Rung(f"rung {place}", calls) for place, (calls, _, _) in enumerate(steps)]
    mirror: dict[int | None, int | None] = {0: 1, 1: 0, TIE: TIE, None: None}
    votes = [votes_of(step[1:]) for step in steps]
    exchanged = [[Vote(vote.by_slot[::-1], mirror[vote.choice]) for vote in cast] for cast in votes]
    one, asked = walk(rungs, votes, TEXTS, 99)
    other, again = walk(rungs, exchanged, TEXTS[::-1], 99)
    assert (other.rung, other.verdict.status, again) == (one.rung, one.verdict.status, asked)
    assert other.verdict.winner == mirror[one.verdict.winner]


def test_a_judge_of_slots_conflicts_on_every_rung() -> None:
    rungs = [Rung("swap", 2), Rung("portia by length", 2), Rung("portia by meaning", 2)]
    outcome, _ = walk(rungs, [votes_of([0, 1])] * 3, TEXTS, 6)
    assert (outcome.verdict.status, outcome.verdict.winner) == ("order_conflict", None)
    assert (outcome.rung, outcome.tried, outcome.stopped) == (None, tuple(rungs), False)


def test_a_rung_that_no_order_can_change_settles_with_one_call() -> None:
    rungs = [Rung("swap", 2), Rung("pine", 1, order_free=True)]
    outcome, _ = walk(rungs, [votes_of([0, 1]), [Vote((1, 0), 1)]], TEXTS, 3)
    assert (outcome.rung, outcome.verdict.winner) == (rungs[1], 1)
    assert (outcome.verdict.status, outcome.stopped) == ("consistent", False)


def test_what_cannot_be_climbed_is_refused() -> None:
    with pytest.raises(ValueError, match="a ladder must have a rung, got none"):
        next(climb([], TEXTS, 9))
    with pytest.raises(ValueError, match="must cover the first rung, 'swap' with 2, got 1"):
        next(climb([Rung("swap", 2)], TEXTS, 1))
    ladder = climb([Rung("swap", 2)], TEXTS, 2)
    next(ladder)
    with pytest.raises(ValueError, match="rung 'swap' must have votes, got none"):
        ladder.send([])
