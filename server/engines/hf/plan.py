"""From a job to the sequences that will run: everything that can be refused is refused here."""

from __future__ import annotations

from dataclasses import dataclass

from llguidance import LLMatcher
from torch import device
from transformers import PreTrainedModel

from kvedit.hf import Door
from kvedit.shelf import Shelf
from server.engines import readings
from server.engines.hf.forward import Forward, Prefill, Read, Stock
from server.engines.hf.sampling import processors
from server.engines.hf.sequence import Choice, Sequence
from server.errors import PlanError
from server.job import Cut, Job, Sampling
from server.text.grammar import Grammars
from server.text.prompts import Encoded, Encoder, overflow
from server.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Planner:
    """Checks jobs against one model, and makes their sequences; for one thread at a time.

    ends   ids that end an answer
    limit  the context, tokens
    shelf  pieces of cache that deterministic requests share
    loose  the same for the others: what is computed in a shared forward depends on its company
    """

    model: PreTrainedModel
    door: Door
    vocabulary: Vocabulary
    encoder: Encoder
    grammars: Grammars
    ends: frozenset[int]
    limit: int
    shelf: Shelf
    loose: Shelf

    def plan(self, job: Job) -> list[Sequence]:
        """Return the job's sequences by choice index.

        raises  PlanError  in one sentence, before anything runs
        """
        self._check(job)
        sequences: list[Sequence] = []
        cut: Cut = "whole" if job.reading is None else job.reading.cut
        for prompt in job.prompts:
            encoded = self.encoder.encode(prompt, cut)
            sequences += self._choices(job, encoded, len(sequences))
        return sequences

    def _choices(self, job: Job, encoded: Encoded, first: int) -> list[Sequence]:
        room = self._room(encoded, job.sampling.max_tokens)
        ends = frozenset() if job.sampling.ignore_eos else self.ends
        prefill = Prefill(self.model, job.sampling.n)
        choices = [
            Choice(
                first + place, place, encoded, job.sampling, room, ends, matcher, job.deterministic
            )
            for place, matcher in enumerate(self._matchers(job.sampling))
        ]
        where = self.model.device
        return [
            Sequence(choice, self._forward(job, encoded, prefill), self.vocabulary, where)
            for choice in choices
        ]

    def _matchers(self, sampling: Sampling) -> list[LLMatcher | None]:
        """Return a matcher for each choice of a prompt."""
        if sampling.grammar is None:
            return [None] * sampling.n
        first = self.grammars.matcher(sampling.grammar)
        return [first.deep_copy() for _ in range(sampling.n)]

    def _forward(self, job: Job, encoded: Encoded, prefill: Prefill) -> Forward:
        if job.reading is None:
            return Stock(self.door, prefill)
        shelf = self.shelf if job.deterministic else self.loose
        return Read(self.door, readings.build(job.reading, encoded.segments, shelf))

    def _room(self, encoded: Encoded, asked: int | None) -> int:
        """Return how many new tokens there may be."""
        length = len(encoded.ids)
        new = max(self.limit - length, 1) if asked is None else asked
        if length + new > self.limit:
            raise overflow(self.limit, length, new if asked is not None else None)
        return new

    def _check(self, job: Job) -> None:
        sampling = job.sampling
        if job.reading is not None and self.door.refusal is not None:
            raise PlanError(
                f"model must offer attention for a reading stage, got {self.door.refusal}; leave "
                "the stage out",
                param="stages",
            )
        if job.reading is not None and sampling.echo and sampling.logprobs is not None:
            raise PlanError(
                "echo with logprobs cannot go with a reading stage, since scoring a prompt needs "
                "the plain path, got both; leave the stage out",
                param="echo",
            )
        self._check_labels(sampling)
        self._check_numbers(sampling)

    def _check_labels(self, sampling: Sampling) -> None:
        for label in sampling.labels:
            if not self.vocabulary.spellings.get(label.strip()):
                raise PlanError(
                    f"label must be one token of the model, got {label!r}; choose a shorter one"
                )

    def _check_numbers(self, sampling: Sampling) -> None:
        """Let transformers judge the numbers by making its processors once."""
        wrong = [
            token_id for token_id in sampling.logit_bias if not 0 <= token_id < self.vocabulary.size
        ]
        if wrong:
            raise PlanError(
                f"logit_bias must name token ids below {self.vocabulary.size}, got {wrong[0]}; "
                "remove it",
                param="logit_bias",
            )
        if sampling.temperature < 0 or sampling.n < 1 or (sampling.max_tokens or 0) < 0:
            raise PlanError(
                "temperature and max_tokens must be at least 0 and n at least 1, got "
                f"{sampling.temperature}, {sampling.max_tokens} and {sampling.n}; correct them"
            )
        try:
            processors(sampling, 0, self.vocabulary.size, device("cpu"))
        except ValueError as error:
            raise PlanError(f"sampling must suit transformers, got: {error}; correct it") from error
