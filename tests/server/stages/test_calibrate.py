"""Calibrate: one call without the slot bias that others showed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ballots import changed, judging
from hypothesis import given
from hypothesis import strategies as st
from judges import ALL, quick

from portia.verdict import TIE
from server.engines.scripted import Answer, Script, Scripted, content_judge, slot_lover
from server.errors import EngineError, PlanError
from server.job import Job, Reply
from server.judge.bias import key
from server.judge.calibration import Calibration
from server.judge.ladder import climb
from server.pipeline import plan
from server.stages.calibrate import CONTENT_FREE


def known(store: Calibration, *biases: float) -> Job:
    """Return a job whose judge is known by the store to have had these slot biases."""
    job = changed(judging("aaa", "bbbb"), calibration=store)
    assert job.case is not None
    for bias in biases:
        store.observe(key(job.case, job.case.ballot), bias)
    return job


async def asked(
    script: Script | Sequence[Answer], job: Job, *inner: Any, **fields: Any
) -> tuple[Reply, Scripted]:
    engine = Scripted(script, ALL)
    made = plan([{"stage": "calibrate", **fields}, *inner], engine=engine, job=job)
    return await climb(made, engine)(job), engine


async def test_the_stores_mean_is_taken_from_one_call() -> None:
    job = known(Calibration(None), 1.0, 3.0)
    judge = content_judge(lambda text, slot: len(text) + 2.0 * (slot == 0))
    reply, engine = await asked(judge, job, min_count=2)
    assert len(engine.works) == 1
    [vote] = reply.votes
    assert vote.by_slot == (0, 1) and vote.choice == 1  # 3 + 2 against 4, less 2
    assert vote.values is not None
    assert vote.values[0] - vote.values[1] == pytest.approx(-1.0)
    assert reply.calls[0].verdict == "A"  # what was said stays as it was
    note = reply.notes["calibrate"]
    assert note == {"source": "store", "mean": 2.0, "count": 2, "standard_error": 1.0}


async def test_requests_with_swap_teach_it_across_restarts(tmp_path: Path) -> None:
    engine = Scripted(slot_lover(0, 1.5), ALL)
    store = Calibration(tmp_path / "biases")
    for place in range(3):
        job = changed(judging("x", f"y{place}"), calibration=store)
        await climb(plan([{"stage": "swap"}], engine=engine, job=job), engine)(job)
    with pytest.raises(PlanError, match="from at least 20 verdicts, got 3 of this model"):
        await asked(slot_lover(0, 1.5), job)
    store.close()
    job = changed(job, calibration=Calibration(tmp_path / "biases"))
    reply, _ = await asked(slot_lover(0, 1.5), job, min_count=3)
    assert reply.votes[0].choice == TIE
    with pytest.raises(PlanError, match="got 0 of this model"):  # labels have a bias of their own
        await asked(slot_lover(0, 1.5), job, {"stage": "pine"}, min_count=3)


@quick
@given(st.text("abc", max_size=5), st.text("abc", max_size=5), st.floats(0.01, 9))
async def test_a_judge_of_slots_has_no_margin_however_it_is_probed(
    x: str, y: str, lead: float
) -> None:
    for probe, calls in (("self", 2 + (x != y)), ("content-free", 4)):
        job = judging(x, y)
        reply, engine = await asked(slot_lover(0, lead), job, probe=probe)
        [vote] = reply.votes
        assert vote.values is not None
        assert vote.values[0] - vote.values[1] == pytest.approx(0, abs=1e-12)
        assert len(engine.works) <= calls + 1
        assert len(reply.probes) == (2 if probe == "self" else 3)
        assert reply.notes["calibrate"]["mean"] == pytest.approx(lead)


async def test_probes_are_pairs_of_the_same() -> None:
    reply, _ = await asked(slot_lover(), judging("y", "x"), probe="self")
    assert [call.ballot.texts for call in reply.probes] == [("x", "x"), ("y", "y")]
    reply, _ = await asked(slot_lover(), judging("y", "x"), probe="content-free")
    assert [call.ballot.texts for call in reply.probes] == [(text, text) for text in CONTENT_FREE]
    note = reply.notes["calibrate"]
    assert (note["source"], note["count"]) == ("content-free", 3)
    assert note["standard_error"] == pytest.approx(0)


async def test_the_standard_error_of_probes() -> None:
    judge = content_judge(lambda text, slot: len(text) * (slot == 0))
    reply, _ = await asked(judge, judging("a", "bbb"), probe="self")
    note = reply.notes["calibrate"]
    assert note["mean"] == pytest.approx(2.0)
    assert note["standard_error"] == pytest.approx(math.sqrt(2) / math.sqrt(2))


async def test_under_pine_it_takes_the_bias_of_a_label() -> None:
    judge = content_judge(lambda text, slot: len(text) + 2.0 * (slot == 0))
    reply, engine = await asked(judge, judging("aaa", "bbbb"), {"stage": "pine"}, probe="self")
    assert reply.votes[0].choice == 1
    assert reply.order_free
    assert all(work.reading is not None for work in engine.works)


async def test_probes_that_cannot_be_read_tell_no_bias() -> None:
    job = judging("x", "y", form="score")
    said = [Answer("8 6"), Answer("well"), Answer("good")]
    with pytest.raises(EngineError, match="probe must have an answer that can be read"):
        await asked(said, job, probe="self")
    reply, _ = await asked([Answer("8 6"), Answer("well"), Answer("7 6")], job, probe="self")
    assert reply.votes[0].values == (7.5, 6.5)
    assert reply.notes["calibrate"]["standard_error"] is None


async def test_an_answer_that_cannot_be_read_stays_unread() -> None:
    job = known(Calibration(None), 1.0)
    assert job.ballot is not None
    job = changed(job, ballot=replace(job.ballot, min_label_mass=0.5))
    reply, _ = await asked([Answer("?", {"A": -3, "B": -4, "T": -5})], job, min_count=1)
    assert reply.votes[0].choice is None
