"""Pairwise: all pairs, one strength each, and a winner that has won all of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from ballots import judging
from hypothesis import given
from hypothesis import strategies as st
from judges import quick

from portia.verdict import TIE, Verdict
from server.engines.scripted import Answer, Script, Scripted, answers, content_judge, slot_lover
from server.job import Job, Reply, Sampling
from server.judge.ladder import climb
from server.pipeline import plan

PAIRWISE = {"stage": "pairwise"}


async def asked(script: Script, job: Job, *inner: Any) -> tuple[Reply, Verdict]:
    engine = Scripted(script, ("text", "logprobs", "attention"))
    made = plan([PAIRWISE, *inner], engine=engine, job=job)
    reply = await climb(made, engine)(job)
    assert reply.verdict is not None
    return reply, reply.verdict


def deciding(choose: Callable[[str, str], str]) -> Script:
    """Return a judge that is told the two answers in slot order, and says a label."""

    def script(prompt: str, sampling: Sampling) -> Answer:
        label = choose(*answers(prompt).values())
        return Answer(label, {name: -0.1 if name == label else -9.0 for name in "ABT"})

    return script


async def test_the_longest_wins_all_of_its_pairs() -> None:
    job = judging("aa", "bbbb", "", "ccc")
    reply, verdict = await asked(content_judge(lambda text, slot: len(text)), job)
    assert (verdict.winner, verdict.status) == (1, "consistent")
    assert [place for place, _ in verdict.ranking] == [1, 3, 0, 2]
    assert verdict.method == "bradley_terry"
    assert len(reply.calls) == 12
    values = [value for _, value in verdict.ranking]
    assert math.fsum(value or 0 for value in values) == pytest.approx(0, abs=1e-9)
    assert verdict.margin == pytest.approx((values[0] or 0) - (values[1] or 0))
    for (low, high), value in zip(verdict.intervals, values, strict=True):
        assert value is not None and low < value < high
    assert {frozenset(vote.by_slot) for vote in reply.votes} == {
        frozenset(pair) for pair in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    }
    indices = {
        tuple(call.ballot.candidates[place].index for place in call.order) for call in reply.calls
    }
    assert len(indices) == 12


async def test_a_judge_of_slots_has_a_bias_and_no_winner() -> None:
    reply, verdict = await asked(slot_lover(), judging("x", "y", "z"))
    assert (verdict.winner, verdict.status) == (None, "order_conflict")
    assert verdict.margin == pytest.approx(0, abs=1e-9)
    order = reply.notes["pairwise"]["order"]
    assert verdict.slot_bias == order["value"] > 1
    assert order["low"] < order["value"] < order["high"]
    assert [pair["status"] for pair in reply.notes["pairwise"]["pairs"]] == ["order_conflict"] * 3


@pytest.mark.parametrize(
    ("choose", "status"),
    [
        (lambda first, second: "A" if (ord(second) - ord(first)) % 3 == 1 else "B", "tie"),  # cycle
        (lambda first, second: "T", "tie"),
        (
            lambda first, second: "A" if first == "x" else "B" if second == "x" else "A",
            "consistent",
        ),
        (lambda first, second: "A", "order_conflict"),
    ],
)
async def test_the_status_tells_why_there_is_no_winner(
    choose: Callable[[str, str], str], status: str
) -> None:
    _, verdict = await asked(deciding(choose), judging("x", "y", "z"))
    assert verdict.status == status
    assert verdict.winner == (0 if status == "consistent" else None)


async def test_a_pair_that_cannot_be_read_is_left_out_of_the_fit() -> None:
    def script(prompt: str, sampling: Sampling) -> Answer:
        if "z" in answers(prompt).values():
            return Answer("?", {"A": -9.0, "B": -9.0, "T": -9.0})
        return content_judge(lambda text, slot: float(text == "x"))(prompt, sampling)

    reply, verdict = await asked(script, judging("x", "y", "z"))
    assert (verdict.winner, verdict.status) == (None, "unparsed")
    assert verdict.ranking[0][0] == 0
    assert sum(vote.choice is None for vote in reply.votes) == 4


async def test_equal_texts_tie() -> None:
    reply, verdict = await asked(slot_lover(), judging("x", "x", "x"))
    assert (verdict.status, verdict.winner) == ("tie", None)
    assert verdict.slot_bias == pytest.approx(0, abs=1e-9)
    assert {vote.choice for vote in reply.votes} <= {0, 1, 2, TIE}


@quick
@given(st.permutations(["red", "green", "blue!", "x"]), st.sampled_from([(), ({"stage": "pine"},)]))
async def test_the_callers_order_changes_no_bit(texts: list[str], inner: tuple[Any, ...]) -> None:
    judge = content_judge(lambda text, slot: math.sin(sum(map(ord, text))) + 0.3 * slot)
    _, one = await asked(judge, judging(*sorted(texts)), *inner)
    _, other = await asked(judge, judging(*texts), *inner)
    names = sorted(texts)
    assert [(names[place], value) for place, value in one.ranking] == [
        (texts[place], value) for place, value in other.ranking
    ]
    assert (one.status, one.margin, one.slot_bias) == (other.status, other.margin, other.slot_bias)
    assert one.intervals == other.intervals


async def test_stages_inside_run_on_every_pair() -> None:
    job = judging("a. b. c.", "d. e. f.", "g. h. i.")
    reply, verdict = await asked(slot_lover(), job, {"stage": "portia"})
    assert all(pair["notes"]["ladder"]["tried"] for pair in reply.notes["pairwise"]["pairs"])
    assert verdict.status == "order_conflict"
    probe = {"stage": "calibrate", "probe": "self"}
    reply, verdict = await asked(
        content_judge(lambda text, slot: float(text[0] == "d")), job, probe
    )
    assert (verdict.status, verdict.winner) == ("single", 1)
    assert len(reply.calls) == 3 and len(reply.probes) == 6
