"""From the caller's numbers to the next token, through transformers' own processors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from llguidance import LLMatcher
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from server.job import Sampling
from server.text.grammar import Allowed

SEEDS = 1 << 64  # a generator's seeds; -1 is the largest, as in torch.manual_seed


class LogitBias(LogitsProcessor):
    """Adds a number to the logits of some tokens (OpenAI's `logit_bias`)."""

    def __init__(self, bias: Mapping[int, float], vocabulary: int, device: torch.device) -> None:
        self._bias = torch.zeros(vocabulary, device=device)
        for token_id, value in bias.items():
            self._bias[token_id] = value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits with the numbers added."""
        return scores + self._bias


class UsePenalty(LogitsProcessor):
    """Lowers the logits of tokens already generated, as OpenAI and vLLM do.

    frequency  per time a token was generated
    presence   once, if it was
    prompt     length of the prompt, which does not count
    """

    def __init__(self, frequency: float, presence: float, prompt: int) -> None:
        self._frequency = frequency
        self._presence = presence
        self._prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits less the penalties."""
        generated = input_ids[:, self._prompt :]
        ones = torch.ones_like(generated, dtype=scores.dtype)
        counts = torch.zeros_like(scores).scatter_add_(1, generated, ones)
        return scores - self._frequency * counts - self._presence * (counts > 0)


def processors(
    sampling: Sampling,
    prompt: int,
    vocabulary: int,
    device: torch.device,
    matcher: LLMatcher | None = None,
    ends: frozenset[int] = frozenset(),
) -> LogitsProcessorList:
    """Return what changes the logits before a token is taken, in the order of transformers.

    prompt      length of the prompt, tokens
    vocabulary  width of the logits
    matcher     at the start of the grammar that the answer must follow, or None
    ends        ids that end the answer
    raises      ValueError  if a number is out of its range
    """
    chain = LogitsProcessorList()
    if sampling.logit_bias:
        chain.append(LogitBias(sampling.logit_bias, vocabulary, device))
    if sampling.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.frequency_penalty or sampling.presence_penalty:
        chain.append(UsePenalty(sampling.frequency_penalty, sampling.presence_penalty, prompt))
    chain += _held_to(sampling, prompt, device, matcher, ends)
    if sampling.greedy:
        return chain
    if sampling.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k > 0:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chain.append(TopPLogitsWarper(float(sampling.top_p)))
    if sampling.min_p > 0.0:
        chain.append(MinPLogitsWarper(float(sampling.min_p)))
    return chain


def _held_to(
    sampling: Sampling,
    prompt: int,
    device: torch.device,
    matcher: LLMatcher | None,
    ends: frozenset[int],
) -> list[LogitsProcessor]:
    """Return what forbids tokens: the end of an answer that is too short, what breaks a grammar."""
    held: list[LogitsProcessor] = []
    if sampling.min_tokens and ends:
        least = sampling.min_tokens
        held.append(MinNewTokensLengthLogitsProcessor(prompt, least, sorted(ends), str(device)))
    if matcher is not None:
        held.append(Allowed(matcher, prompt))
    return held


class Sampler:
    """Takes the tokens of one choice.

    choice  place among the choices of its prompt: with a seed, choice j draws from `seed + j`
    ids     the prompt
    room    most new tokens that will be taken
    like    [1, vocab] logits, for their width and device
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        choice: int,
        ids: tuple[int, ...],
        room: int,
        like: Tensor,
        matcher: LLMatcher | None = None,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        device = like.device
        self._chain = processors(sampling, len(ids), like.shape[-1], device, matcher, ends)
        self._generator = None if sampling.greedy else generator(sampling, choice, device)
        self._length = len(ids)
        if self._chain:  # only processors look at what came before
            self._ids = torch.zeros((1, len(ids) + room), dtype=torch.long, device=device)
            self._ids[0, : len(ids)] = torch.tensor(ids, device=device)

    def pick(self, logits: Tensor) -> Tensor:
        """Take the next token.

        logits   [1, vocab] float32
        returns  [1, 1] int64
        """
        scores = logits
        for processor in self._chain:
            scores = processor(self._ids[:, : self._length], scores)
        if self._generator is None:
            token = scores.argmax(-1, keepdim=True)
        else:
            token = torch.multinomial(scores.softmax(-1), 1, generator=self._generator)
        if self._chain:
            self._ids[:, self._length] = token[:, 0]
        self._length += 1
        return token


def generator(sampling: Sampling, choice: int, device: torch.device) -> torch.Generator:
    """Return what a choice draws from: with a seed, choice j from `seed + j`."""
    made = torch.Generator(device)
    if sampling.seed is None:
        made.seed()
    else:
        made.manual_seed((sampling.seed + choice) % SEEDS)
    return made
