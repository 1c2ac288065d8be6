"""From work to the sequences that will run: everything that can be refused is refused here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from llguidance import LLMatcher
from torch import device
from transformers import PreTrainedModel

from kvedit.hf import Door
from kvedit.shelf import Shelf
from server.engines import readings
from server.engines.hf.context import Context
from server.engines.hf.forward import Forward, Prefill, StockForward, through
from server.engines.hf.sampling import processors
from server.engines.hf.sequence import Choice, Sequence
from server.errors import PlanError
from server.job import Cut, ReadingSpec, Sampling, Work
from server.prompt import Prompt
from server.text.grammar import Grammars
from server.text.prompts import Encoded, Encoder
from server.text.vocabulary import Vocabulary

MOST_SPREAD = 1 << 15  # tokens of one forward, where the context is shorter: memory bears so many


@dataclass(frozen=True)  # without slots, where what is found once is kept
class Preparation:
    """Checks work against one model, and makes its sequences; for one thread at a time.

    ends   ids that end an answer
    limit  the context, tokens
    shelf  pieces of cache that deterministic requests share
    loose  the same for the others: what is computed in a shared forward depends on the neighbours
    fitted whether the model has kernels of the machine, so that its very bits are nobody's affair
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
    fitted: bool = False

    @cached_property
    def token_bytes(self) -> int:
        """Return the bytes of one token's keys and values in all layers."""
        config = self.model.config.get_text_config(decoder=True)
        heads = config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        return int(2 * config.num_hidden_layers * kv_heads * dim * self.model.dtype.itemsize)

    def check(self, work: Work) -> None:
        """Raise PlanError, in one sentence, for work that cannot run."""
        self._check(work)
        cut: Cut = "whole" if work.reading is None else work.reading.cut
        for prompt in work.prompts:
            encoded = self.encoder.check(prompt, cut, endless=readings.endless(work.reading))
            self.room(len(encoded.ids), work.sampling.max_tokens, work.reading)
            self._check_spread(encoded, work.reading)

    def sequences(self, work: Work) -> list[Sequence]:
        """Return the sequences of some work by choice index (PlanError as `check`)."""
        self._check(work)
        found: list[Sequence] = []
        for prompt in work.prompts:
            encoded = self.encode(prompt, work.reading)
            self.room(len(encoded.ids), work.sampling.max_tokens, work.reading)
            self._check_spread(encoded, work.reading)
            prefill = Prefill(self.model, work.sampling.n)
            for choice, matcher in enumerate(self._matchers(work.sampling)):
                context = self.context(work.reading, encoded, prefill, work.deterministic)
                context.feed(encoded.ids)
                made = Choice(
                    len(found),
                    choice,
                    encoded,
                    work.sampling,
                    matcher=matcher,
                    deterministic=work.deterministic,
                )
                found.append(self._answer(context, made, work.reading))
        return found

    def check_sampling(self, sampling: Sampling, reading: ReadingSpec) -> None:
        """Refuse numbers that a target cannot be written by, token by token (PlanError)."""
        if sampling.n != 1 or sampling.echo or sampling.logprobs is not None or sampling.grammar:
            raise PlanError(
                "n, echo, logprobs and a grammar cannot go with a stream, got one of them; leave "
                "it out"
            )
        self._check(Work((), sampling, reading))

    def encode(self, prompt: Prompt, reading: ReadingSpec | None) -> Encoded:
        """Return a prompt's ids, cut as a reading asks (PlanError)."""
        cut: Cut = "whole" if reading is None else reading.cut
        return self.encoder.encode(prompt, cut, endless=readings.endless(reading))

    def room(self, length: int, asked: int | None, reading: ReadingSpec | None = None) -> int:
        """Return how many new tokens there may be after some (PlanError)."""
        if readings.endless(reading):  # nobody means an answer without end
            return self.limit if asked is None else asked
        new = max(self.limit - length, 1) if asked is None else asked
        if length + new > self.limit:
            raise self.encoder.overflow(length, new if asked is not None else None)
        return new

    def context(
        self,
        reading: ReadingSpec | None,
        encoded: Encoded,
        prefill: Prefill,
        deterministic: bool = False,
    ) -> Context:
        """Return an empty sequence for a prompt.

        prefill  of the prompt's choices, where it is read as the model does it
        """
        forward = self._forward(reading, encoded, prefill, deterministic)
        return Context(forward, self.door.device)

    def again(
        self,
        context: Context,
        sampling: Sampling,
        encoded: Encoded,
        reading: ReadingSpec | None = None,
    ) -> Sequence:
        """Return an answer to what a sequence that stays holds now (PlanError)."""
        if not context.unread:
            raise PlanError("sequence must be fed before it answers, got nothing new; feed it")
        if sampling.n != 1 or sampling.echo:
            raise PlanError(
                "n and echo cannot go with a sequence that stays, got one of them; leave it out"
            )
        self._check(Work((), sampling))
        [matcher] = self._matchers(sampling)
        return self._answer(context, Choice(0, 0, encoded, sampling, matcher=matcher), reading)

    def refusal(self, reading: ReadingSpec) -> str | None:
        """Return why the model cannot be read so, or None (PlanError for an unknown reading)."""
        fitting = readings.fitted(reading, self.limit)
        return self.door.refusal or readings.refusal(fitting, self.door.layers)

    def _answer(
        self, context: Context, choice: Choice, reading: ReadingSpec | None = None
    ) -> Sequence:
        """Return an answer to what a context holds."""
        sampling = choice.sampling
        room = self.room(len(context.ids), sampling.max_tokens, reading)
        ends = frozenset() if sampling.ignore_eos else self.ends | choice.prompt.ends
        return Sequence(replace(choice, room=room, ends=ends), context, self.vocabulary)

    def _matchers(self, sampling: Sampling) -> list[LLMatcher | None]:
        """Return a matcher for each choice of a prompt."""
        if sampling.grammar is None:
            return [None] * sampling.n
        first = self.grammars.matcher(sampling.grammar)
        return [first.deep_copy() for _ in range(sampling.n)]

    def _forward(
        self, reading: ReadingSpec | None, encoded: Encoded, prefill: Prefill, deterministic: bool
    ) -> Forward:
        if reading is None:
            return StockForward(self.door, prefill, leaves=self.fitted)
        shelf = self.shelf if deterministic else self.loose
        made = readings.build(readings.fitted(reading, self.limit), encoded.segments, shelf)
        probabilities = bool(dict(reading.numbers).get("probabilities"))
        return through(self.door, made, probabilities=probabilities)

    def _check_spread(self, encoded: Encoded, reading: ReadingSpec | None) -> None:
        """Refuse a prompt that one forward cannot hold as often as it is to be read (PlanError)."""
        if reading is None or encoded.segments is None:
            return
        most, tokens = max(self.limit, MOST_SPREAD), readings.spread(reading, encoded.segments)
        if tokens > most:
            raise PlanError(
                f"stage {reading.name!r} must read at most {most} tokens in all its orders, got "
                f"{tokens}; ask for fewer orders",
                param="stages",
            )

    def _check(self, work: Work) -> None:
        sampling = work.sampling
        reason = None if work.reading is None else self.refusal(work.reading)
        if reason is not None:
            raise PlanError(
                f"model must be one that can be read so, got one that cannot: {reason}; leave the "
                "stage out",
                param="stages",
            )
        if work.reading is not None and sampling.echo and sampling.logprobs is not None:
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
