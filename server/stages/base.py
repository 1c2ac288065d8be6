"""What a stage is: its level, its needs, its claims, and how it runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from server.engines.base import Ability
from server.job import Job, Reply

Need = Ability | Literal["documents", "candidates", "set", "session"]
Claim = Literal["text", "positions", "visibility", "cache"]
Proceed = Callable[[Job], Awaitable[Reply]]


class Level(IntEnum):
    """How deep a stage works; stages are listed outermost first, so levels never fall."""

    TEXT = 1
    READING = 2
    CACHE = 3


class Stage(BaseModel):
    """One technique: its numbers are fields, its place in the pipeline is class variables.

    level       TEXT, READING or CACHE
    needs       abilities of the engine (text, logprobs, attention, cache) and of the job
                (documents, candidates, session; set = either documents or candidates)
    claims      what it sets; two stages of one plan cannot set the same
    order_free  True = one call under this stage is the same in every order of the set
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: ClassVar[Level]
    needs: ClassVar[frozenset[Need]]
    claims: ClassVar[frozenset[Claim]]
    order_free: ClassVar[bool] = False

    stage: str

    def prepare(self, job: Job) -> Job:
        """Return the job as this stage will see it; its needs are judged on that (or PlanError)."""
        return job

    def calls(self, job: Job) -> int:
        """Return how often `run` will call `proceed`."""
        return 1

    @abstractmethod
    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Answer the job through `proceed`, called zero, one or several times."""
