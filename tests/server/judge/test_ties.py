"""Ties by measurement: what T gets, against what it gets where the answers are identical."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ballots import ballot
from hypothesis import given
from hypothesis import strategies as st
from judges import ALL, asked, judged, serving

from portia.verdict import TIE
from server.chunk import Usage
from server.engines.scripted import Scripted, content_judge
from server.judge.ballot import Call, Case
from server.judge.bias import corrected, key
from server.judge.calibration import ENOUGH, Calibration
from server.judge.ties import TieHabits, learn_ties, tie_odds

SWAP, SELF = {"stage": "swap"}, {"stage": "calibrate", "probe": "self"}
logprob = st.floats(-30, 0, allow_nan=False)


def call(first: float, second: float, tie: float, *texts: str, **changes: Any) -> Call:
    logprobs = {"A": first, "B": second, "T": tie}
    choice = max(range(3), key=(first, second, tie).__getitem__)
    made = ballot(*(texts or ("x", "y")))
    said, slot = "ABT"[choice], choice if choice < 2 else TIE
    asked = Call(made, ("A", "B", "T"), logprobs, said, slot, (first, second), said, Usage())
    return replace(asked, **changes)


def case(store: Calibration | None, *texts: str) -> Case:
    return Case(ballot(*texts), "fp", store)


def taught(mean: float, count: int = ENOUGH) -> Calibration:
    """Return a store that has seen a judge's T on so many identical pairs."""
    store = Calibration(None)
    for place in range(count):
        off = 0.0 if place == count - 1 and count % 2 else (-1.0) ** place
        store.observe(key(case(store), ballot()), mean + off, "tie_odds")
    return store


@given(logprob, logprob, logprob)
def test_the_odds_are_those_of_the_tie_against_all_letters(a: float, b: float, t: float) -> None:
    odds = tie_odds(call(a, b, t))
    assert odds == pytest.approx(t - math.log(math.exp(a) + math.exp(b)))
    assert odds == tie_odds(call(b, a, t))  # to the bit


@pytest.mark.parametrize(
    "other",
    [
        call(-1, -2, -3, choice=None, verdict=None),
        call(-1, -2, -3, logprobs=None),
        call(-1, -2, -3, logprobs={"A": -1.0, "B": -2.0}),
        call(-1, -2, -3, ballot=ballot(form="likert")),
    ],
)
def test_other_calls_have_none(other: Call) -> None:
    assert tie_odds(other) is None


@given(logprob, logprob, logprob, st.floats(-5, 5))
async def test_a_call_is_a_tie_from_the_judges_own_mean_on(
    a: float, b: float, t: float, mean: float
) -> None:
    store = taught(mean)
    known = store.of(key(case(store), ballot()), "tie_odds")
    assert known is not None
    read = await TieHabits().read(case(store), call(a, b, t))
    odds = tie_odds(read)
    assert odds is not None
    assert read.tied == (odds >= known.mean)
    likeliest = TIE if a == b else int(b > a)
    assert read.choice == (TIE if read.tied else likeliest)
    assert read.verdict == call(a, b, t).verdict  # what was said stays as it was
    assert corrected(read, 0.0).choice == read.choice  # a slot bias says nothing of ties
    mirror = await TieHabits().read(case(store), call(b, a, t))
    assert mirror.choice == {0: 1, 1: 0, TIE: TIE}[read.choice or 0]


@pytest.mark.parametrize("store", [None, Calibration(None), taught(-9.0, ENOUGH - 1)])
async def test_a_judge_that_is_not_known_is_read_by_its_likeliest_label(
    store: Calibration | None,
) -> None:
    habits = TieHabits()
    for made in (call(-1, -3, -0.5), call(-0.5, -1, -3)):
        assert await habits.read(case(store), made) == made
    assert habits.notes() == {}


async def test_the_calls_of_a_request_are_read_alike_whatever_is_learnt_meanwhile() -> None:
    store = taught(0.0)
    habits = TieHabits()
    first = await habits.read(case(store), call(-1, -3, -0.8))
    for _ in range(100):
        store.observe(key(case(store), ballot()), 50.0, "tie_odds")
    assert (first.tied, (await habits.read(case(store), call(-1, -3, -0.8))).tied) == (True, True)
    assert (await TieHabits().read(case(store), call(-1, -3, -0.8))).tied is False
    [note] = habits.notes()["ties"]
    assert (note["count"], note["mean"]) == (ENOUGH, pytest.approx(0.0))
    assert note["standard_error"] > 0


async def test_identical_answers_teach_it_once_a_text() -> None:
    store = Calibration(None)
    same = [call(-1, -2, -1.5, "x", "x"), call(-1, -2, -1.7, "x", "x")]
    await learn_ties(case(store, "x", "y"), [*same, call(-1, -2, -1.5)])
    known = store.of(key(case(store), ballot()), "tie_odds")
    assert known is not None and known.count == 1
    odds = [tie_odds(each) or 0.0 for each in same]
    assert known.mean == pytest.approx(sum(odds) / 2)
    assert not store.all()  # no slot bias


@pytest.mark.parametrize(
    "wrong",
    [
        call(-1, -2, -1.5, "N/A", "N/A"),  # not an answer of the request
        call(-1, -2, -1.5, "x", "x", ballot=ballot("x", "x", evidence=True)),
        call(-1, -2, -1.5, "x", "x", repeated=True),
        call(-1, -2, -1.5, "x", "x", logprobs={"A": -1.0, "B": -2.0}),
    ],
)
async def test_nothing_is_learnt_from_other_calls(wrong: Call) -> None:
    store = Calibration(None)
    await learn_ties(case(store, "x", "y"), [wrong])
    assert not store.all("tie_odds")
    await learn_ties(case(None, "x", "x"), [call(-1, -2, -1.5, "x", "x")])


async def test_a_fault_of_the_store_does_not_spoil_what_was_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Calibration(tmp_path / "biases")
    store.close()
    await learn_ties(case(store, "x", "x"), [call(-1, -2, -1.5, "x", "x")])
    assert "calibration file must be" in caplog.text


STRANGE = {"template": "correctness", "ties": "allow"}  # one that the model was not taught
SWAPPED = {**STRANGE, "stages": [SWAP]}


def fond_of_ties(text: str, slot: int) -> float:
    """Return logits of a judge that knows which answer is longer, and says T all the same."""
    return len(text) / 2


@pytest.mark.parametrize("teaching", [{"stages": []}, {"stages": [SWAP]}, {"stages": [SELF]}])
async def test_requests_with_identical_answers_teach_a_judge_to_decide(
    teaching: dict[str, Any],
) -> None:
    engine, store = Scripted(content_judge(fond_of_ties, tie=9.0), ALL), Calibration(None)
    untaught = await asked(engine, ["no", "yes, it is surely"], store, **SWAPPED)
    assert (untaught["status"], untaught["winner"], untaught["preferred"]) == ("tie", None, "1")
    [warning] = untaught["evenhand"]["warnings"]
    assert warning.startswith("label 'T' was the likeliest of 2 of 2 calls and taken for a tie, ")
    assert warning.endswith(
        "; send tie_margin, or teach it by 20 requests whose two texts are equal"
    )
    for place in range(ENOUGH):
        texts = ["a" * place, "a" * place]
        if teaching["stages"] == [SELF]:
            texts[1] += "b" * 9
        await asked(engine, texts, store, **STRANGE, **teaching)
    decided = await asked(engine, ["no", "yes, it is surely"], store, **SWAPPED)
    assert (decided["status"], decided["winner"]) == ("consistent", "1")
    assert [each["label"] for each in decided["calls"]] == ["T", "T"]
    assert "warnings" not in decided["evenhand"]
    [note] = decided["evenhand"]["notes"]["ties"]
    assert note["count"] >= ENOUGH
    equal = await asked(engine, ["a", "b"], store, **SWAPPED)
    assert equal["status"] == "tie"


async def test_a_margin_decides_ties_without_the_label() -> None:
    async with serving(content_judge(lambda text, slot: float(len(text)), tie=99.0)) as client:
        near = await judged(client, ["aaa", "bbbb"], stages=[SWAP], tie_margin=1.5, ties="allow")
        far = await judged(client, ["aaa", "bbbbbb"], stages=[SWAP], tie_margin=1.5)
        many = await judged(client, ["a", "bbbb", "ccccc"], stages=[SWAP], tie_margin=1.5)
    assert (near["status"], near["winner"], near["preferred"]) == ("tie", None, "1")
    assert (far["status"], far["winner"], far["preferred"]) == ("consistent", "1", "1")
    assert (many["status"], many["winner"], many["preferred"]) == ("tie", None, "2")
    assert "T" not in near["calls"][0]["logprobs"]
    async with serving(content_judge(lambda text, slot: float(len(text))), ("text",)) as client:
        words = await judged(client, ["aaa", "bbbb"], stages=[SWAP], tie_margin=1.5)
    assert (words["status"], words["winner"]) == ("consistent", "1")
    assert "tie_margin needs a margin" in words["evenhand"]["warnings"][0]
