"""What an engine says: pieces of its choices as they come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]
LEFT_OUT = "left_out"  # the note of what a prompt to fill in had no room for, in numbers by name


@dataclass(frozen=True, slots=True)
class Scored:
    """One token with its natural-log probability and the most likely alternatives."""

    id: int
    text: str
    logprob: float | None = None
    data: bytes = b""
    top: tuple[Scored, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted: prompt, completion, and how many of the prompt came from a cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one choice.

    index          choice: prompt * n + j
    text           what is new since the last chunk; never half a character
    tokens         the tokens behind `text`, scored where logprobs were asked for
    prompt_tokens  with `echo`, once per choice in its first chunk: the prompt, scored likewise
    prompt_text    with `echo`, in the first chunk of the choice: the prompt as text
    labels         natural-log probability of each asked label at the first new token (all its token
                   forms summed), in the first chunk of the choice
    finish_reason  set in the last chunk of the choice
    usage          what the choice has used so far, always in its last chunk; usages of choices add
                   up, since the first choice of a prompt alone counts the prompt's tokens
    notes          what the reading reports, by stage name, and `left_out`; in the last chunk
    """

    index: int
    text: str = ""
    tokens: tuple[Scored, ...] = ()
    prompt_tokens: tuple[Scored, ...] = ()
    prompt_text: str = ""
    labels: Mapping[str, float] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
