"""One answer on its way: one step is one forward of the model, and a token once all is read.

A step is either `step`, alone, or somebody else's forward of `pending` and then `take`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher
from torch import Tensor

from kvedit.reading import Reading
from server.chunk import LEFT_OUT, Chunk, FinishReason, Scored, Usage
from server.engines.hf.context import Context
from server.engines.hf.sampling import Sampler
from server.engines.hf.scores import Scorer
from server.job import Sampling
from server.text.answer import TextStream
from server.text.prompts import Encoded
from server.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked of one sequence.

    index          in the reply, prompt * n + choice
    choice         index among the choices of its prompt
    room           new tokens at most
    ends           ids that end the answer
    matcher        of the grammar that the answer must follow, or None
    deterministic  whether it runs in forwards of its own, so that no other request changes a bit
    """

    index: int
    choice: int
    prompt: Encoded
    sampling: Sampling
    room: int = 0
    ends: frozenset[int] = frozenset()
    matcher: LLMatcher | None = None
    deterministic: bool = False


class Sequence:
    """The state of one choice: an answer to what its context holds."""

    def __init__(self, choice: Choice, context: Context, vocabulary: Vocabulary) -> None:
        self.done = False
        self._choice = choice
        self._context = context
        self._before = len(context.ids)
        self._vocabulary = vocabulary
        self._scorer = Scorer(vocabulary)
        self._text = TextStream(choice.sampling.stop)
        self._sampler: Sampler | None = None
        self._opening: dict[str, Any] = {}
        self._tokens: list[Scored] = []
        self._count = 0

    @property
    def shares(self) -> bool:
        """Return whether its next step may be taken in one forward with other sequences."""
        shared = not self._choice.deterministic and self._keep == 1
        return shared and self._context.forward.shares

    @property
    def pending(self) -> Tensor:
        """Return what it reads next, [1, query] int64: a piece of the prompt, or one token."""
        return self._context.pending

    def begin(self) -> None:
        """Cut what was fed where its reading says, once."""
        self._context.begin()

    def reading(self) -> Reading:
        """Return the reading that can read `pending` in a forward with other sequences."""
        return self._context.forward.reading()

    def fail(self) -> None:
        """Take note that a forward has failed: what was read by it means nothing."""
        self._context.failed = True

    def step(self) -> Chunk | None:
        """Run the model once, alone; return what can be said now, if anything can."""
        self.begin()
        keep = self._keep if self._context.last else None
        return self.take(self._context.forward.read(self.pending, keep))

    def take(self, logits: Tensor) -> Chunk | None:
        """Go on after `pending` was read; return as `step`.

        logits  [1, keep, vocab] of its last position, or of all that are to be scored
        """
        if not self._context.done():
            return None
        row = logits[:, -1].float()
        if self._sampler is None:
            self._sampler = self._open(logits, row)
        if self._choice.room == 0:
            return self._finish("length")
        token_id = self._context.take(self._sampler.pick(row))
        self._count += 1
        self._tokens.append(self._score(row, token_id))
        return self._say(token_id)

    @property
    def _keep(self) -> int:
        """Return how many last positions' logits are needed; 0 = all, to score the prompt."""
        wanted = self._choice.sampling
        scored = self._sampler is None and wanted.echo and wanted.logprobs is not None
        return 0 if scored else 1

    def _open(self, logits: Tensor, row: Tensor) -> Sampler:
        """Write down what the first chunk says of the prompt; return the answer's sampler."""
        wanted = self._choice.sampling
        if wanted.echo:
            scored = wanted.logprobs is not None
            self._opening["prompt_text"] = self._choice.prompt.text
            self._opening["prompt_tokens"] = self._score_prompt(logits[0] if scored else None)
        if wanted.labels:
            self._opening["labels"] = self._scorer.labels(row[0], wanted.labels)
        return self._new_sampler(row)

    def _new_sampler(self, row: Tensor) -> Sampler:
        choice = self._choice
        return Sampler(
            choice.sampling,
            choice=choice.choice,
            ids=tuple(self._context.ids),
            room=choice.room,
            like=row,
            matcher=choice.matcher,
            ends=choice.ends,
        )

    def _score(self, row: Tensor, token_id: int) -> Scored:
        alternatives = self._choice.sampling.logprobs
        if alternatives is None:
            return self._scorer.token(token_id)
        return self._scorer.rows(row, (token_id,), alternatives)[0]

    def _score_prompt(self, logits: Tensor | None) -> tuple[Scored, ...]:
        """Write the prompt down; its first token has nothing before it, hence no score."""
        ids, alternatives = self._choice.prompt.ids, self._choice.sampling.logprobs
        if logits is None or alternatives is None:
            return tuple(map(self._scorer.token, ids))
        return self._scorer.token(ids[0]), *self._scorer.rows(logits, ids[1:], alternatives)

    def _say(self, token_id: int) -> Chunk | None:
        if token_id in self._choice.ends:
            return self._finish("stop")
        text = self._text.feed(self._vocabulary.shown[token_id])
        if self._text.stopped is not None or self._count == self._choice.room:
            return self._finish("length", text)
        return self._chunk(text) if text else None

    def _finish(self, reason: FinishReason, text: str = "") -> Chunk:
        """Return the last chunk; a stop string in what was held back decides the reason."""
        self.done = True
        text += self._text.end()
        stopped = self._text.stopped
        return self._chunk(
            text,
            finish_reason=reason if stopped is None else "stop",
            stop_reason=stopped,
            notes=self._notes(),
        )

    def _notes(self) -> Mapping[str, Any]:
        """Return what the reading reports, and what the prompt left out."""
        left_out = self._choice.prompt.left_out
        notes = self._context.forward.report()
        return {**notes, LEFT_OUT: dict(left_out)} if left_out else notes

    def _chunk(self, text: str, **last: Any) -> Chunk:
        tokens, self._tokens = tuple(self._tokens), []
        opening, self._opening = self._opening, {}
        choice = self._choice
        usage = Usage(completion_tokens=self._count)
        if choice.choice == 0:  # the prompt is counted once
            usage += Usage(prompt_tokens=self._before, cached_tokens=self._context.cached)
        return Chunk(choice.index, text, tokens, usage=usage, **opening, **last)
