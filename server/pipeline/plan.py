"""The plan: what will run, in which order, and how often the engine is called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from server.engines.base import Engine
from server.job import Job
from server.judge.check import check_ballot
from server.pipeline import checks
from server.pipeline.parse import MOST_STAGES, parse
from server.stages.base import Level, RungStages, Stage

__all__ = ["MOST_STAGES", "Plan", "plan"]


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

    @property
    def outer(self) -> tuple[Stage, ...]:
        """Return the stages around all others, which work on verdicts."""
        return tuple(stage for stage in self.stages if stage.level < Level.TEXT)

    @property
    def rungs(self) -> tuple[RungStages, ...]:
        """Return the rungs, each an onion of its own, that are tried until the orders agree.

        Stages are nested in one. With a ladder's stage in the list every stage adds its own rungs,
        and all have the stages that the ladder implies.
        """
        inner = self.stages[len(self.outer) :]
        if any(stage.ladder for stage in inner):
            return _rungs(inner)
        if not any(map(_orders, self.stages)):
            inner = (*_implied(self.stages), *inner)
        return (RungStages(inner[0].stage if inner else "", inner),)

    def asked(self, job: Job) -> Job:
        """Return a job as it is behind all stages, where the engine is asked first."""
        for stage in (*self.outer, *self.rungs[0].stages):
            job = stage.prepare(job)
            job = job.but(reading=stage.reading_of(job) or job.reading)
        return job

    def calls(self, job: Job) -> int:
        """Return how many calls of the engine the job needs, at the least."""
        return calls((*self.outer, *self.rungs[0].stages), job)

    def wire(self) -> list[dict[str, Any]]:
        """Return the stages as they are written in a request."""
        return [
            {"stage": stage.stage, **stage.model_dump(mode="json", exclude_defaults=True)}
            for stage in self.stages
        ]


def calls(stages: Iterable[Stage], job: Job) -> int:
    """Return how many calls of the engine one call from outside the stages becomes."""
    count = 1
    for stage in stages:
        count *= stage.calls(job)
        job = stage.prepare(job)
    return count


def plan(stages: object, *, engine: Engine, job: Job) -> Plan:
    """Check everything that can be checked before anything runs.

    stages  the wire's list of objects, outermost first
    job     as the outermost stage will get it
    raises  PlanError  one sentence that names the stage, the reason and what to do
    """
    made = Plan(parse(stages))
    checks.check_once(made.stages)
    checks.check_levels(made.stages)
    for together in _together(made.stages):
        checks.check_claims(together)
    checks.check_candidates(made.stages, engine, job)
    for rung in made.rungs:
        _check_rung((*made.outer, *rung.stages), engine, job)
    return made


def _check_rung(stages: tuple[Stage, ...], engine: Engine, job: Job) -> None:
    """Check an onion on the job as each of its stages will see it."""
    for stage in stages:
        job = stage.prepare(job)
        checks.check_needs(stage, engine, job)
    checks.check_one_reading(stages, job)
    if job.ballot is not None:
        check_ballot(job.ballot)
    for stage in stages:
        stage.check(job)


def _orders(stage: Stage) -> bool:
    """Say whether a stage sees to the order of the candidates."""
    return "order" in stage.claims or stage.order_free


def _implied(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return tuple(dict.fromkeys(implied for stage in stages for implied in stage.implies))


def _rungs(inner: tuple[Stage, ...]) -> tuple[RungStages, ...]:
    """Return a ladder's rungs; a stage that adds none is part of every rung."""
    everywhere = (*_implied(inner), *(stage for stage in inner if not stage.rungs()))
    rungs = {rung.name: rung.stages for stage in inner for rung in stage.rungs()}
    return tuple(
        RungStages(name, tuple(sorted((*own, *everywhere), key=lambda stage: stage.level)))
        for name, own in rungs.items()
    )


def _together(stages: tuple[Stage, ...]) -> list[tuple[Stage, ...]]:
    """Return the sets of stages that run together."""
    if not any(stage.ladder for stage in stages):
        return [stages]
    shared = tuple(stage for stage in stages if stage.level < Level.TEXT or not stage.rungs())
    return [(*shared, stage) for stage in stages if stage not in shared]
