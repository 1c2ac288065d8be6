"""What a stage is: its level, its needs, its claims, and how it runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import IntEnum
from typing import ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from server.engines.base import Ability
from server.errors import PlanError
from server.job import Job, ReadingSpec, Reply
from server.judge.ballot import Ballot, Case

Need = Ability | Literal["documents", "candidates", "set", "session", "stream"]
Claim = Literal["order", "answer", "parts", "positions", "visibility", "cache"]
Proceed = Callable[[Job], Awaitable[Reply]]


class Level(IntEnum):
    """How deep a stage works; stages are listed outermost first, so levels never fall."""

    RANKING = 0
    VERDICT = 1
    TEXT = 2
    READING = 3
    CACHE = 4


class RungStages(NamedTuple):
    """One rung of a ladder: its name, and the stages it has besides the implied ones."""

    name: str
    stages: tuple[Stage, ...]


class Stage(BaseModel):
    """One technique: its numbers are fields, where it belongs in the pipeline is class variables.

    level       RANKING, VERDICT, TEXT, READING or CACHE
    needs       abilities of the engine (text, logprobs, attention, cache, grammar) and of the job
                (documents, candidates, session, stream; set = either documents or candidates)
    claims      what it sets; two stages that run together cannot set the same
    order_free  True = one call under this stage is the same in every order of the set
    implies     stages that run inside it where no stage of the list sees to the order; on the rungs
                of a ladder in any case
    ladder      True = a list with it is a ladder: its stages are tried in turn, not nested
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: ClassVar[Level]
    needs: ClassVar[frozenset[Need]]
    claims: ClassVar[frozenset[Claim]]
    order_free: ClassVar[bool] = False
    implies: ClassVar[tuple[Stage, ...]] = ()
    ladder: ClassVar[bool] = False

    stage: str

    @property
    def reading(self) -> ReadingSpec | None:
        """Return how the engine reads under this stage; None = the stage does not mind."""
        return None

    def reading_of(self, job: Job) -> ReadingSpec | None:
        """Return how the engine reads this job under the stage."""
        return self.reading

    def needed(self, job: Job) -> frozenset[Need]:
        """Return what the stage needs for this job."""
        return self.needs

    def prepare(self, job: Job) -> Job:
        """Return the job as stages inside will see it; needs are judged on that (or PlanError)."""
        return job

    def check(self, job: Job) -> None:
        """Refuse what cannot be done to the job as the engine will be asked it (PlanError)."""

    def calls(self, job: Job) -> int:
        """Return how many calls of the engine one call from outside becomes."""
        return 1

    def rungs(self) -> tuple[RungStages, ...]:
        """Return the rungs that this stage adds to a ladder; none = it is part of every rung."""
        return (RungStages(self.stage, (self,)),)

    @abstractmethod
    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Answer the job through `proceed`, called zero, one or several times."""


class Ladder(Stage):
    """A stage that is several ways to ask, tried in turn until both orders agree."""

    level: ClassVar[Level] = Level.TEXT
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates"})
    ladder: ClassVar[bool] = True

    @abstractmethod
    def rungs(self) -> tuple[RungStages, ...]:
        """Return the rungs."""

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Raise: its rungs run in its place."""
        raise AssertionError("a ladder runs as its rungs")


def case_of(job: Job) -> Case:
    """Return a judge's case; the plan refuses stages that need one without."""
    assert job.case is not None, "the plan refuses a judge's stage without candidates"
    return job.case


def ballot_of(job: Job) -> Ballot:
    """Return a judge's ballot."""
    return case_of(job).ballot


def asking(job: Job, ballot: Ballot) -> Job:
    """Return a judge's job with another ballot."""
    return job.but(case=replace(case_of(job), ballot=ballot))


def check_two(stage: str, job: Job) -> None:
    """Refuse a stage for two candidates on more of them (PlanError)."""
    count = 0 if job.ballot is None else len(job.ballot.candidates)
    if count > 2:
        raise PlanError(
            f"stage {stage!r} must have two candidates, got {count}; put stage 'pairwise' first, "
            "which judges them two by two",
            param="stages",
        )
