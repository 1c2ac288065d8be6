"""One choice on its way: one call of `step` is one forward of the model and one token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from llguidance import LLMatcher
from torch import Tensor

from server.engines.hf.forward import Forward
from server.engines.hf.prompts import Encoded
from server.engines.hf.sampling import Sampler
from server.engines.hf.scores import Scorer
from server.engines.hf.text import TextStream
from server.engines.hf.vocabulary import Vocabulary
from server.job import Chunk, FinishReason, Sampling, Scored, Usage


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked of one sequence.

    index   place in the reply, prompt * n + choice
    choice  place among the choices of its prompt
    room    new tokens at most
    ends    ids that end the answer
    matcher of the grammar that the answer must follow, or None
    """

    index: int
    choice: int
    prompt: Encoded
    sampling: Sampling
    room: int
    ends: frozenset[int]
    matcher: LLMatcher | None = None


class Sequence:
    """The state of one choice; made before it runs, it takes memory at its first step."""

    def __init__(
        self, choice: Choice, forward: Forward, vocabulary: Vocabulary, device: torch.device
    ) -> None:
        self.done = False
        self._choice = choice
        self._forward = forward
        self._vocabulary = vocabulary
        self._device = device
        self._scorer = Scorer(vocabulary)
        self._text = TextStream(choice.sampling.stop)
        self._sampler: Sampler | None = None
        self._last: Tensor | None = None
        self._opening: dict[str, Any] = {}
        self._tokens: list[Scored] = []
        self._count = 0

    def step(self) -> Chunk | None:
        """Run the model once; return what can be said now, if anything can."""
        row = self._prefill() if self._last is None else self._decode(self._last)
        if self._choice.room == 0:
            return self._finish("length")
        if self._sampler is None:
            self._sampler = self._new_sampler(row.shape[-1])
        self._last = self._sampler.pick(row)
        token_id = int(self._last)
        self._count += 1
        self._tokens.append(self._score(row, token_id))
        return self._say(token_id)

    def _prefill(self) -> Tensor:
        """Read the prompt; return the logits of its last position, [1, vocab] float32."""
        choice, wanted = self._choice, self._choice.sampling
        scored = wanted.echo and wanted.logprobs is not None
        ids = torch.tensor([choice.prompt.ids], device=self._device)
        logits = self._forward.prefill(ids, 0 if scored else 1)
        if wanted.echo:
            self._opening["prompt_text"] = choice.prompt.text
            self._opening["prompt_tokens"] = self._score_prompt(logits[0] if scored else None)
        row = logits[:, -1].float()
        if wanted.labels:
            self._opening["labels"] = self._scorer.labels(row[0], wanted.labels)
        return row

    def _decode(self, last: Tensor) -> Tensor:
        return self._forward.decode(last)[:, -1].float()

    def _new_sampler(self, vocabulary: int) -> Sampler:
        choice = self._choice
        return Sampler(
            choice.sampling,
            choice=choice.choice,
            ids=choice.prompt.ids,
            room=choice.room,
            vocabulary=vocabulary,
            device=self._device,
            matcher=choice.matcher,
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
            notes=self._forward.report(),
        )

    def _chunk(self, text: str, **last: Any) -> Chunk:
        tokens, self._tokens = tuple(self._tokens), []
        opening, self._opening = self._opening, {}
        choice = self._choice
        prompt = len(choice.prompt.ids) if choice.choice == 0 else 0  # counted once per prompt
        usage = Usage(prompt_tokens=prompt, completion_tokens=self._count)
        return Chunk(choice.index, text, tokens, usage=usage, **opening, **last)
