"""The stage lm-infinite: what it asks for, what it refuses, and how long a text it reads."""

from __future__ import annotations

from typing import Any

import pytest
from asking import Ask, MakeEngine, tokens, usage

from kvedit.lm_infinite import LmInfiniteReading
from server.engines.base import Engine
from server.engines.readings import build, endless, fitted
from server.errors import PlanError
from server.job import Job, ReadingSpec, Sampling
from server.pipeline.plan import Plan, plan
from server.prompt import Part, TextPrompt
from server.stages.lm_infinite import LmInfinite

JOB = Job("m", Sampling(max_tokens=4), prompts=(TextPrompt((Part("The fox"),)),))


def test_the_reading_is_data_and_what_depends_on_the_model_is_left_to_it() -> None:
    assert LmInfinite().reading == ReadingSpec("lm-infinite", (("first", 10),))
    numbers = (("first", 4), ("window", 32), ("cap", 30))
    spec = LmInfinite(first=4, window=32, cap=30).reading
    assert spec == ReadingSpec("lm-infinite", numbers)
    assert endless(spec) and not endless(None) and not endless(ReadingSpec("pine"))
    assert isinstance(build(fitted(spec, 64), None, None), LmInfiniteReading)


@pytest.mark.parametrize(
    ("given", "window", "cap"),
    [({}, 256, 256), ({"window": 64}, 64, 64), ({"cap": 9}, 256, 9), ({"window": 256}, 256, 256)],
)
def test_the_window_is_what_the_model_has_learned(
    given: dict[str, Any], window: int, cap: int
) -> None:
    numbers = dict(fitted(LmInfinite(**given).reading, 256).numbers)
    assert (numbers["window"], numbers["cap"]) == (window, cap)


def test_a_window_beyond_what_the_model_has_learned_is_refused() -> None:
    with pytest.raises(PlanError, match=r"'window' must be at most 256, .* got 257"):
        fitted(LmInfinite(window=257).reading, 256)


def planned(engine: Engine, *stages: dict[str, Any], job: Job = JOB) -> Plan:
    return plan(list(stages), engine=engine, job=job)


def test_without_first_tokens_only_by_name(make_engine: MakeEngine) -> None:
    engine, without = make_engine(), {"stage": "lm-infinite", "first": 0}
    with pytest.raises(PlanError, match="'first' must be at least 1, got 0"):
        planned(engine, without)
    assert planned(engine, {**without, "first_zero": True})


@pytest.mark.parametrize("other", ["pine", "average", "parallel", "rerank", "pie"])
def test_with_another_reading_it_is_refused(make_engine: MakeEngine, other: str) -> None:
    documents = TextPrompt((Part("one", "d"), Part("two", "d"), Part("Which?")))
    job = JOB.but(prompts=(documents,), kept=other == "pie")
    first, second = {"stage": other}, {"stage": "lm-infinite"}
    stages = (second, first) if other == "pie" else (first, second)
    with pytest.raises(PlanError, match="lm-infinite"):
        planned(make_engine(), *stages, job=job)


def test_a_text_within_the_window_is_read_as_without(ask: Ask) -> None:
    plain, through = ask("The quick brown"), ask("The quick brown", reading=LmInfinite().reading)
    assert tokens(plain) == tokens(through)
    assert through[-1].notes["lm-infinite"] == {"out_of_sight": 0}


def test_a_text_of_many_contexts_is_answered(ask: Ask) -> None:
    """The model has learned 256 tokens."""
    chunks = ask("The quick brown fox jumps. " * 600, reading=LmInfinite().reading, max_tokens=300)
    used = usage(chunks)
    assert used.prompt_tokens > 3000
    hidden = used.prompt_tokens + used.completion_tokens - 256 - 10
    assert abs(chunks[-1].notes["lm-infinite"]["out_of_sight"] - hidden) <= 1
