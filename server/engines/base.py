"""What the pipeline needs of an engine, whatever runs below it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from server.chunk import Chunk
from server.job import Job

Ability = Literal["text", "logprobs", "attention", "cache", "grammar"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model: its facts for `/v1/models`, and why it lacks an ability it lacks."""

    id: str
    root: str
    max_model_len: int
    abilities: frozenset[Ability]
    refusals: Mapping[str, str] = field(default_factory=dict)
    created: int = 0


class Engine(Protocol):
    """Something that answers jobs.

    `generate` is awaited first: it checks the whole job (`PlanError` before anything runs) and
    returns the stream. Closing the stream (`aclose`) stops the work at its next step.
    """

    @property
    def info(self) -> ModelInfo:
        """Return what is known of the model."""

    @property
    def offers(self) -> frozenset[Ability]:
        """Return what it can do."""

    @property
    def alive(self) -> bool:
        """Return whether it takes jobs."""

    async def generate(self, job: Job) -> AsyncIterator[Chunk]:
        """Check a job, and return the stream of its chunks."""

    async def close(self) -> None:
        """Take no more jobs, and end those that run."""
