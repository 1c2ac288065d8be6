"""The pipeline: `plan` says whether the stages can run, `compose` folds them into an onion."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from server.ballot import check_template, judge
from server.engines.base import Engine
from server.errors import PlanError
from server.job import Job, Reply
from server.stages import KNOWN, PARSER
from server.stages.base import Need, Proceed, Stage
from server.stages.sets import sets

MOST_STAGES = 8
MOST_SHOWN = 60  # characters of a value in a message
EXAMPLE = '[{"stage": "pine"}]'

REMEDIES: Mapping[Need, tuple[str, str]] = {  # what is missing, and where to get it
    "text": ("an engine that offers text", "serve a model that does"),
    "logprobs": ("an engine that offers logprobs", "serve a model that does"),
    "attention": ("an engine that offers attention", "leave the stage out or serve another model"),
    "cache": ("an engine that offers cache", "leave the stage out or serve another model"),
    "documents": ("documents", "send `documents` or content parts with a `group`"),
    "candidates": ("candidates", "send them to /v1/judge"),
    "set": (
        "a set of documents or candidates",
        "send `documents`, content parts with a `group`, or candidates to /v1/judge",
    ),
    "session": ("an edit session", "open one first"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages that can run on a job, outermost first."""

    stages: tuple[Stage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the stages' names."""
        return tuple(stage.stage for stage in self.stages)

    @property
    def order_free(self) -> bool:
        """Return whether one call is the same in every order of the set."""
        return any(stage.order_free for stage in self.stages)

    def calls(self, job: Job) -> int:
        """Return how many calls of the engine the job needs."""
        return math.prod(stage.calls(job) for stage in self.stages)

    def wire(self) -> list[dict[str, Any]]:
        """Return the stages as they are written in a request."""
        return [
            {"stage": stage.stage, **stage.model_dump(mode="json", exclude_defaults=True)}
            for stage in self.stages
        ]


def plan(stages: object, *, engine: Engine, job: Job) -> Plan:
    """Check everything that can be checked before anything runs.

    stages  the wire's list of objects, outermost first
    job     as the outermost stage will get it
    raises  PlanError  one sentence that names the stage, the reason and what to do
    """
    if not isinstance(stages, list | tuple):
        raise _refusal(f"stages must be a list, got {_shown(stages)}; write {EXAMPLE}")
    if len(stages) > MOST_STAGES:
        raise _refusal(
            f"stages must number at most {MOST_STAGES}, got {len(stages)}; leave some out"
        )
    parsed = tuple(_parse(stage, place) for place, stage in enumerate(stages))
    _check_once(parsed)
    _check_levels(parsed)
    _check_claims(parsed)
    for stage in parsed:
        job = stage.prepare(job)
        _check_needs(stage, engine, job)
    if job.ballot is not None:
        check_template(job.ballot)
    return Plan(parsed)


def compose(plan: Plan, engine: Engine) -> Proceed:
    """Fold the stages around the engine, the first stage outermost."""
    proceed = _innermost(plan, engine)
    for stage in reversed(plan.stages):
        proceed = _around(stage, proceed)
    return proceed


def _innermost(plan: Plan, engine: Engine) -> Proceed:
    async def answer(job: Job) -> Reply:
        if job.ballot is not None:
            return await judge(job, job.ballot, engine, plan.names)
        return Reply(chunks=await engine.generate(job))

    return answer


def _around(stage: Stage, proceed: Proceed) -> Callable[[Job], Awaitable[Reply]]:
    async def answer(job: Job) -> Reply:
        return await stage.run(job, proceed)

    return answer


def _parse(stage: object, place: int) -> Stage:
    """Return one stage from its wire form."""
    if not isinstance(stage, Mapping):
        raise _refusal(
            f"stages[{place}] must be an object, got {_shown(stage)}; write one as in {EXAMPLE}"
        )
    name, known = stage.get("stage"), ", ".join(KNOWN)
    if not isinstance(name, str) or name not in KNOWN:
        near = difflib.get_close_matches(str(name), KNOWN, n=1)
        advice = f"did you mean {near[0]!r}?" if near else "name one of them in its field 'stage'"
        raise _refusal(f"stages[{place}] must be one of {known}, got {_shown(name)}; {advice}")
    try:
        return PARSER.validate_python(dict(stage))
    except ValidationError as error:
        raise _field_refusal(name, error) from None


def _field_refusal(name: str, error: ValidationError) -> PlanError:
    """Return the first fault of a stage's fields as one sentence."""
    fault = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(step) for step in fault["loc"][1:])
    where, got = f"stage {name!r} field {field!r}", _shown(fault["input"])
    if fault["type"] == "extra_forbidden":
        fields = [each for each in KNOWN[name].model_fields if each != "stage"]
        takes = f"one of {', '.join(fields)}" if fields else "left out, since the stage takes none"
        return _refusal(f"{where} must be {takes}, got {got}; remove or rename it")
    rule = fault["msg"][0].lower() + fault["msg"][1:]
    rule = rule.removeprefix("input should be ").removeprefix("input should ")
    return _refusal(f"{where} must be {rule}, got {got}; correct it")


def _check_once(stages: tuple[Stage, ...]) -> None:
    names = [stage.stage for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise _refusal(
                f"stage {name!r} must appear once, got {names.count(name)} times; keep one"
            )


def _check_levels(stages: tuple[Stage, ...]) -> None:
    """Check that levels do not fall: the outermost stage comes first."""
    for outer, inner in itertools.pairwise(stages):
        if inner.level < outer.level:
            raise _refusal(
                f"stage {inner.stage!r} must come before {outer.stage!r}, since "
                f"{inner.level.name.lower()} is outside {outer.level.name.lower()}, got it after; "
                "put it first"
            )


def _check_claims(stages: tuple[Stage, ...]) -> None:
    holders: dict[str, str] = {}
    for stage in stages:
        for claim in sorted(stage.claims):
            if claim in holders:
                raise _refusal(
                    f"stage {stage.stage!r} cannot set the {claim}, got {holders[claim]!r} which "
                    "sets it already; leave one of them out"
                )
            holders[claim] = stage.stage


def _check_needs(stage: Stage, engine: Engine, job: Job) -> None:
    """Check that the engine and the prepared job have what the stage needs."""
    has = engine.offers | _offers(job)
    for need in sorted(stage.needs - has):
        wanted, advice = REMEDIES[need]
        reason = engine.info.refusals.get(need)
        raise _refusal(
            f"stage {stage.stage!r} must have {wanted}, got "
            f"{f'a model without ({reason})' if reason else 'none'}; {advice}"
        )


def _offers(job: Job) -> frozenset[Need]:
    """Return the abilities of a job."""
    offers: set[Need] = set()
    if job.ballot is not None:
        offers |= {"candidates", "set"}
    if job.prompts and all(sets(prompt) for prompt in job.prompts):
        offers |= {"documents", "set"}
    return frozenset(offers)


def _refusal(message: str) -> PlanError:
    return PlanError(message, param="stages")


def _shown(value: object) -> str:
    """Return a value for a message, cut to `MOST_SHOWN` characters."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
