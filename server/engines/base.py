"""What the pipeline needs of an engine, whatever runs below it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from server.chunk import Chunk
from server.job import ReadingSpec, Sampling, Work
from server.prompt import ChatAbility, Prompt

Ability = Literal["text", "logprobs", "attention", "cache", "grammar"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model: its facts for `/v1/models`.

    refusals   why it lacks an ability that it lacks
    weights    stands for their content and the tokenizer's, or for another server and what it says
               of its model; never for a name that other weights may bear as well
    dtype, device  that the model computes in, and of which type; empty where that is another
               server's affair
    executor   who reads, where attention is offered
    executors  by name, why others do not read
    kernels    by shape, what multiplies linear layers; empty = the framework's own
    software   that computes, each with its version
    chat       what its chats may have
    template   of a judge, by the name of a built-in one, that the model was trained on; None = none
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
    executors: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    software: tuple[str, ...] = ()
    chat: frozenset[ChatAbility] = frozenset()
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """What became of a sequence when its prompt was edited, in tokens.

    reused          before the first change, where they were
    moved           kept behind it, at their new places
    recomputed      new ones, and old ones that are computed again
    stale_fraction  of all its tokens, those computed with another text before them than stands
                    there now
    """

    reused: int
    moved: int
    recomputed: int
    stale_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How near an edited sequence is to one that is read anew, at its last token.

    kl              of the next token's distributions, read anew against edited, in nats
    top1            whether both name the same token
    stale_fraction  as in `Edit`, of the edited sequence
    edits           since everything in it was exact
    """

    kl: float
    top1: bool
    stale_fraction: float = 0.0
    edits: int = 0


class Session(Protocol):
    """A sequence that stays: it is fed, answers, is fed again, and reads nothing twice."""

    @property
    def length(self) -> int:
        """Return how many tokens it has, those included that it has still to read."""
        ...

    @property
    def nbytes(self) -> int:
        """Return the bytes that its cache takes."""
        ...

    @property
    def stale_fraction(self) -> float:
        """Return the share of its tokens that are stale (see `Edit`); in idle moments it falls."""
        ...

    async def feed(self, prompt: Prompt) -> int:
        """Add a prompt, or what follows it, at the end; return how many tokens that was.

        raises  PlanError    if it does not fit, or cannot be cut as the reading asks; then nothing
                             was added
                EngineError  as `generate`
        """
        ...

    async def reusable(self, prompt: Prompt) -> int:
        """Return how many tokens that a prompt begins with it would not read again.

        It may be at work meanwhile: then it is what it has read so far.

        raises  PlanError  if the prompt cannot be encoded
        """
        ...

    async def edit(self, prompt: Prompt, *, exact: bool = False) -> Edit:
        """Make it another prompt, and keep what may stay; an empty one is fed the prompt.

        What it answered since is part of what it has: where the prompt says the same, it stays.

        exact   nothing stale is left: all that was computed with another text before it is
                computed again
        raises  PlanError    as `feed`; then it is as before
                EngineError  as `generate`
        """
        ...

    async def fidelity(self, prompt: Prompt) -> Fidelity:
        """Edit it to a prompt, and compare it with one that is read anew.

        raises  as `edit`
        """
        ...

    async def generate(self, sampling: Sampling) -> AsyncIterator[Chunk]:
        """Answer after what was fed, or edited; the answer's tokens then belong to the sequence.

        raises  PlanError    if it cannot; nothing has run then
                EngineError  if the engine has stopped, or this sequence has failed before
        """
        ...

    async def close(self) -> None:
        """Forget the sequence; what is running for it stops at its next step."""
        ...


class GroupSession(Protocol):
    """A source that grows while its target is written; nothing runs that is not asked for."""

    ends: frozenset[int]

    @property
    def room(self) -> bool:
        """Return whether one more token may be written."""
        ...

    @property
    def usage(self) -> dict[str, int]:
        """Return the tokens of source and target, and how many of them were computed."""
        ...

    def text(self, token: int) -> str:
        """Return what a token says, with U+FFFD for half a character."""
        ...

    def shown(self, token: int) -> bytes:
        """Return what a token adds to the text."""
        ...

    async def read(self, text: str) -> int:
        """Add a piece of the source; return its tokens (PlanError: there is no room)."""
        ...

    def end(self) -> None:
        """Say that the source is whole."""
        ...

    def write(self, token: int) -> None:
        """Add a token to the target."""
        ...

    async def retract(self, count: int) -> None:
        """Take the last tokens of the target back."""
        ...

    async def say(self) -> int:
        """Return what the model says behind all that was read and written (EngineError)."""
        ...

    async def close(self) -> None:
        """Forget the sequence; what runs for it ends with its step."""
        ...


@runtime_checkable
class OpensGroups(Protocol):
    """An engine to which a source may be streamed."""

    async def open_groups(
        self, reading: ReadingSpec, prompt: Prompt, sampling: Sampling
    ) -> GroupSession:
        """Return a sequence before its source (PlanError as `Engine.check`)."""
        ...


class Engine(Protocol):
    """Something that answers.

    `generate` of work is open, feed, generate and close for each of its choices.
    """

    @property
    def info(self) -> ModelInfo:
        """Return the model's facts."""
        ...

    @property
    def offers(self) -> frozenset[Ability]:
        """Return what stages may need of it."""
        ...

    @property
    def alive(self) -> bool:
        """Return whether work given now would run."""
        ...

    def refusal(self, reading: ReadingSpec) -> str | None:
        """Return why the model cannot be read so, or None."""
        ...

    async def check(self, work: Work) -> None:
        """Refuse everything that can be refused before work takes a place.

        raises  PlanError    in one sentence
                EngineError  if the engine has stopped
        """
        ...

    async def generate(self, work: Work) -> AsyncIterator[Chunk]:
        """Start work, and return the chunks of all choices as they come.

        raises  PlanError    as `check`; nothing has run then
                EngineError  if the engine has stopped

        Closing the stream (`aclose`) stops the work at its next step.
        """
        ...

    async def open(self, reading: ReadingSpec | None = None) -> Session:
        """Return an empty sequence that is read so (PlanError where there are none)."""
        ...

    async def close(self) -> None:
        """Stop at the next step; callers still waiting get an EngineError."""
        ...
