"""From chunks to replies: what every generating endpoint says, whole or streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Protocol

from server.chunk import Chunk, Usage
from server.engines.base import ModelInfo


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one reply begins with."""

    id: str
    created: int
    model: str
    fingerprint: str

    def wire(self, kind: str) -> dict[str, Any]:
        """Return the beginning of an object of this kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class Writer(Protocol):
    """How one endpoint writes its choices; one object per request.

    kind, piece_kind  `object` of a whole reply, and of a stream's chunk
    """

    kind: str
    piece_kind: str

    def whole(self, chunk: Chunk) -> dict[str, Any]:
        """Return one finished choice; all its chunks come merged into one."""
        ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return what a stream says of a choice before its first chunk, or None."""
        ...

    def piece(self, chunk: Chunk) -> dict[str, Any] | None:
        """Return one choice of a stream's chunk, or None if there is nothing to say."""
        ...


def merged(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Return one chunk per choice, in order of their indices."""
    found: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        found.setdefault(chunk.index, []).append(chunk)
    return [_merged(found[index]) for index in sorted(found)]


def _merged(chunks: Sequence[Chunk]) -> Chunk:
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        prompt_tokens=tuple(token for chunk in chunks for token in chunk.prompt_tokens),
        prompt_text="".join(chunk.prompt_text for chunk in chunks),
    )


class Tally:
    """What has been counted and noted while chunks went by.

    n      choices per prompt
    count  choices in all
    """

    def __init__(self, prompts: int, n: int) -> None:
        self.n = n
        self.count = prompts * n
        self._usage: dict[int, Usage] = {}
        self._notes: dict[int, Mapping[str, Any]] = {}
        self._finished: set[int] = set()

    def add(self, chunk: Chunk) -> None:
        """Count one chunk; the usage it carries is its choice's so far."""
        before = self._usage.get(chunk.index, Usage())
        self._usage[chunk.index] = chunk.usage or (
            before + Usage(completion_tokens=len(chunk.tokens))
        )
        if chunk.notes:
            self._notes.setdefault(chunk.index // self.n, chunk.notes)
        if chunk.finish_reason is not None:
            self._finished.add(chunk.index)

    @property
    def complete(self) -> bool:
        """Return whether every choice has finished."""
        return len(self._finished) == self.count

    def usage(self) -> dict[str, Any]:
        """Return the tokens counted: each prompt once, however many answers it has."""
        prompts: dict[int, Usage] = {}
        for index, usage in sorted(self._usage.items()):
            best = prompts.get(index // self.n, Usage())
            prompts[index // self.n] = max(best, usage, key=lambda each: each.prompt_tokens)
        prompt = sum(usage.prompt_tokens for usage in prompts.values())
        completion = sum(usage.completion_tokens for usage in self._usage.values())
        return usage_wire(
            Usage(prompt, completion, sum(usage.cached_tokens for usage in prompts.values()))
        )

    def notes(self) -> dict[str, Any]:
        """Return what the readings note, by stage; a list in prompt order for several prompts."""
        found = [self._notes[prompt] for prompt in sorted(self._notes)]
        if self.count == self.n:
            return dict(found[0]) if found else {}
        names = dict.fromkeys(name for notes in found for name in notes)
        return {name: [notes.get(name) for notes in found] for name in names}


def usage_wire(usage: Usage) -> dict[str, Any]:
    """Return usage in OpenAI's shape."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def evenhand(
    stages: list[dict[str, Any]], notes: Mapping[str, Any], warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the reply's `evenhand` object: what was done, and what was ignored."""
    said: dict[str, Any] = {"stages": stages, "notes": dict(notes)}
    return {**said, "warnings": list(warnings)} if warnings else said


def fingerprint(info: ModelInfo) -> str:
    """Return what stands for the model and what computes it: equal ones give equal answers.

    What it is called, and by whom it was loaded when, is not among it.
    """
    model = (info.weights, info.dtype, info.max_model_len, sorted(info.abilities))
    facts = (version("evenhand"), *model, info.device, info.executor, info.software)
    return f"fp_{hashlib.sha256(repr(facts).encode()).hexdigest()[:10]}"
