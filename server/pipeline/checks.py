"""What makes a list of stages impossible, each in one sentence."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from server.engines.base import Engine
from server.errors import PlanError
from server.job import Job
from server.pipeline.parse import refusal
from server.stages.base import Need, Stage

REMEDIES: Mapping[Need, tuple[str, str]] = MappingProxyType(
    {  # what is missing, and where to get it
        "text": ("an engine that offers text", "serve a model that does"),
        "logprobs": ("an engine that offers logprobs", "serve a model that does"),
        "attention": (
            "an engine that offers attention",
            "leave the stage out or serve another model",
        ),
        "cache": ("an engine that offers cache", "leave the stage out or serve another model"),
        "grammar": ("an engine that offers grammar", "serve a model that does"),
        "documents": ("documents", "send `documents` or content parts with a `group`"),
        "candidates": ("candidates", "send them to /v1/judge"),
        "set": (
            "a set of documents or candidates",
            "send `documents`, content parts with a `group`, or candidates to /v1/judge",
        ),
        "stream": ("a source that is streamed", "open it at /v1/streams"),
        "session": ("a text that is edited", "open it at /v1/edit-sessions"),
    }
)


def check_once(stages: tuple[Stage, ...]) -> None:
    """Check that no stage is listed twice."""
    names = [stage.stage for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise refusal(
                f"stage {name!r} must appear once, got {names.count(name)} times; keep one"
            )


def check_levels(stages: tuple[Stage, ...]) -> None:
    """Check that levels do not fall: the outermost stage comes first."""
    for outer, inner in itertools.pairwise(stages):
        if inner.level < outer.level:
            raise refusal(
                f"stage {inner.stage!r} must come before {outer.stage!r}, since "
                f"{inner.level.name.lower()} is outside {outer.level.name.lower()}, got it after; "
                "put it first"
            )


def check_claims(stages: Iterable[Stage]) -> None:
    """Check that no two of the stages that run together set the same."""
    holders: dict[str, str] = {}
    for stage in stages:
        for claim in sorted(stage.claims):
            if claim in holders:
                raise refusal(
                    f"stage {stage.stage!r} cannot set the {claim}, got {holders[claim]!r} which "
                    "sets it already; leave one of them out"
                )
            holders[claim] = stage.stage


def check_candidates(stages: Iterable[Stage], engine: Engine, job: Job) -> None:
    """Check that a judge's stages have a judge's job, before one of them prepares it."""
    for stage in stages:
        if job.ballot is None and "candidates" in stage.needs:
            raise _lacking(stage, "candidates", engine)


def check_needs(stage: Stage, engine: Engine, job: Job) -> None:
    """Check that the engine and the prepared job have what the stage needs."""
    for need in sorted(stage.needed(job) - engine.offers - _offers(job)):
        raise _lacking(stage, need, engine)
    reading = stage.reading_of(job)
    reason = None if reading is None else engine.refusal(reading)
    if reason is not None:
        raise refusal(
            f"stage {stage.stage!r} must have a model that can be read so, got one that cannot "
            f"({reason}); leave the stage out or serve another model"
        )


def check_one_reading(stages: Iterable[Stage], job: Job) -> None:
    """Check that a prompt is read in one way."""
    reading = [stage.stage for stage in stages if stage.reading_of(job) is not None]
    if len(reading) > 1:
        raise refusal(
            f"stage {reading[1]!r} cannot read a prompt that another stage reads, got "
            f"{reading[0]!r} before it; leave one of them out"
        )


def _lacking(stage: Stage, need: Need, engine: Engine) -> PlanError:
    wanted, advice = REMEDIES[need]
    reason = engine.info.refusals.get(need)
    return refusal(
        f"stage {stage.stage!r} must have {wanted}, got "
        f"{f'a model without ({reason})' if reason else 'none'}; {advice}"
    )


def _offers(job: Job) -> frozenset[Need]:
    """Return the abilities of a job."""
    offers: set[Need] = set()
    if job.ballot is not None:
        offers |= {"candidates", "set"}
    if job.prompts and all(prompt.sets for prompt in job.prompts):
        offers |= {"documents", "set"}
    if job.kept:
        offers.add("session")
    return frozenset(offers)
