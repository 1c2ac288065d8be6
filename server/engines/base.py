"""What the pipeline needs of an engine, whatever runs below it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from server.job import Chunk, Job

Ability = Literal["text", "logprobs", "attention", "cache", "grammar"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model: its facts for `/v1/models`, and why it lacks an ability it lacks.

    weights   stands for their content and the tokenizer's, or for another server and what it says
              of its model; never for a name that other weights may bear as well
    dtype, device, executor  that the model computes in, of which type, and what its readings do
              the attention with; empty where that is another server's affair
    software  that computes, each with its version
    """

    id: str
    root: str
    max_model_len: int
    abilities: frozenset[Ability]
    refusals: Mapping[str, str] = field(default_factory=dict)
    created: int = 0
    weights: str = ""
    dtype: str = ""
    device: str = ""
    executor: str = ""
    software: tuple[str, ...] = ()


class Engine(Protocol):
    """Something that answers jobs.

    `generate` is awaited first: it checks the whole job (`PlanError` before anything runs) and
    returns the stream. Closing the stream (`aclose`) stops the work at its next step.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def offers(self) -> frozenset[Ability]: ...

    @property
    def alive(self) -> bool: ...

    async def generate(self, job: Job) -> AsyncIterator[Chunk]: ...

    async def close(self) -> None: ...
