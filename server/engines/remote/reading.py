"""From another server's answers to chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from server.chunk import Chunk, FinishReason, Scored, Usage
from server.engines.remote.faults import strange
from server.engines.remote.wire import Answer, Choice
from server.errors import EngineError, PlanError
from server.job import Sampling

FINISHED: Mapping[str, FinishReason] = MappingProxyType(
    {
        "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop",
        "end_turn": "stop", "length": "length", "max_tokens": "length",
    }
)  # fmt: skip
ROUNDING = 1e-6  # of a sum of float32 probabilities


@dataclass(frozen=True, slots=True)
class End:
    """How a choice ended."""

    reason: FinishReason
    stop: str | int | None


class Reader:
    """Reads the answer to one prompt, whole or event by event.

    first     index of the prompt's first choice

    The usage comes last, and for all choices together: so the chunk that finishes a choice waits
    for it, and the first choice carries it all. A server that counts no tokens is said to use none.
    """

    def __init__(self, first: int, sampling: Sampling) -> None:
        self.first = first
        self._sampling = sampling
        self._usage = Usage()
        self._ends: dict[int, End] = {}

    def read(self, sent: object) -> list[Chunk]:
        """Return what an answer or an event says.

        raises  ValueError   if it is neither (pydantic's error is one)
                EngineError  if a choice is not among those asked for, or ends in a strange way
                PlanError    if a filter withheld it
        """
        answer = Answer.model_validate(sent)
        if answer.usage is not None:
            self._usage = answer.usage.usage
        return [chunk for choice in answer.choices if (chunk := self._chunk(choice)) is not None]

    def end(self) -> list[Chunk]:
        """Return the last chunk of every choice (EngineError if the answer was cut off)."""
        wanted = self._sampling.n
        if len(self._ends) != wanted:
            raise EngineError(
                f"remote server must finish {wanted} choices, got {len(self._ends)}; try again"
                + (", or ask for one choice at a time" if wanted > 1 else ""),
                status=502,
                code="remote_answer",
                retry_after=1,
            )
        return [
            Chunk(
                self.first + index,
                usage=Usage() if index else self._usage,
                finish_reason=end.reason,
                stop_reason=end.stop,
            )
            for index, end in sorted(self._ends.items())
        ]

    def _chunk(self, choice: Choice) -> Chunk | None:
        """Return what is new of a choice, or None."""
        index = choice.index
        if not 0 <= index < self._sampling.n:
            raise strange(f"choice number {index} of {self._sampling.n}")
        if choice.finish_reason:
            self._ends[index] = End(_finished(choice.finish_reason), _stop(choice.stop_reason))
        text, tokens = choice.said, choice.tokens
        if not text and not tokens:
            return None
        if self._sampling.echo and tokens:
            return self._echoed(choice)
        wanted = self._sampling.labels  # of a whole answer: its first tokens are here
        labels = weights(tokens[0], wanted) if tokens and wanted else None
        return Chunk(self.first + index, text, self._asked(tokens), labels=labels)

    def _echoed(self, choice: Choice) -> Chunk:
        """Return a choice that begins with its prompt; without scores it need not be cut there."""
        tokens, prompt = self._asked(choice.tokens), self._usage.prompt_tokens
        end = choice.offset(prompt)
        return Chunk(
            self.first + choice.index,
            choice.said[end:],
            tokens[prompt:],
            prompt_text=choice.said[:end],
            prompt_tokens=tokens[:prompt],
        )

    def _asked(self, tokens: tuple[Scored, ...]) -> tuple[Scored, ...]:
        """Return the tokens with as many alternatives as were asked for, scored if they were."""
        wanted = self._sampling.logprobs
        if wanted is None:
            return tuple(replace(token, logprob=None, top=()) for token in tokens)
        return tuple(replace(token, top=token.top[:wanted]) for token in tokens)


def _finished(reason: str) -> FinishReason:
    if reason in FINISHED:
        return FINISHED[reason]
    if reason == "content_filter":
        raise PlanError(
            "answer must pass the remote server's content filter, got one withheld by it; "
            "change the text",
            code="content_filter",
        )
    raise strange(f"an answer finished by {reason[:60]!r}")


def _stop(reason: object) -> str | int | None:
    return reason if isinstance(reason, str | int) else None


def weights(token: Scored, labels: Sequence[str]) -> dict[str, float]:
    """Return the natural-log probability of each label, all its reported spellings summed.

    A label that is not reported is given the most that a token can have which is not: less than the
    least reported one, and no more than what all of them leave. So a margin over it is the least
    that it can be (if it has one spelling). If no label is reported, nothing is known of them, and
    they are all given nothing.

    token  the first of the answer, with its alternatives
    """
    known = [*token.top, *([] if token.text in {each.text for each in token.top} else [token])]
    reported = [(each.text, each.logprob) for each in known if each.logprob is not None]
    found = {label: _summed(reported, label) for label in labels}
    if all(logprob == -math.inf for logprob in found.values()):
        return found
    logprobs = [logprob for _, logprob in reported]
    left = max(1 - math.fsum(map(math.exp, logprobs)), 0) + ROUNDING
    most = math.nextafter(min(*logprobs, math.log(left)), -math.inf)
    return {label: max(logprob, most) for label, logprob in found.items()}


def _summed(reported: Sequence[tuple[str, float]], label: str) -> float:
    """Return the log of the summed probability of what says a label, but for white space."""
    spellings = [logprob for text, logprob in reported if text.strip() == label.strip()]
    most = max(spellings, default=-math.inf)
    if most == -math.inf:
        return most
    return most + math.log(math.fsum(math.exp(logprob - most) for logprob in spellings))
