"""Answers that a grammar allows: llguidance says which tokens may come next."""

from __future__ import annotations

from functools import cached_property

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from server.errors import PlanError


class Grammars:
    """Makes matchers for one tokenizer.

    size  width of the logits
    ends  ids that end an answer, allowed where the grammar is complete
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._ends = ends

    @property
    def offered(self) -> bool:
        """Return whether llguidance can read the tokenizer."""
        return isinstance(self._tokenizer, PreTrainedTokenizerFast)

    @cached_property
    def _prepared(self) -> LLTokenizer:
        """Return the tokenizer as llguidance needs it; this takes up to a second, once."""
        if not isinstance(self._tokenizer, PreTrainedTokenizerFast):
            raise PlanError(
                "grammar must be left out for this model, got a slow tokenizer; use another model",
                param="response_format",
            )
        size = max(self._size, len(self._tokenizer))
        return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=sorted(self._ends) or None)

    def matcher(self, grammar: str) -> LLMatcher:
        """Return a matcher at the grammar's start; PlanError if there is no such grammar."""
        matcher = LLMatcher(self._prepared, grammar)
        if matcher.is_error():
            reason = matcher.get_error().splitlines()[0]
            raise PlanError(
                f"grammar must be one that llguidance can follow, got: {reason}; correct it",
                param="response_format",
            )
        return matcher


class Allowed(LogitsProcessor):
    """Takes away what the grammar does not allow next.

    prompt  length of the prompt, which the grammar does not see
    """

    def __init__(self, matcher: LLMatcher, prompt: int) -> None:
        self._matcher = matcher
        self._seen = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Take in the new tokens, and return the logits with what may not follow at -inf."""
        if new := input_ids[0, self._seen :].tolist():
            self._matcher.consume_tokens(new)
            self._seen = input_ids.shape[1]
        # one byte per token, 0 where it is not allowed; the buffer must be one torch may write to
        mask = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        allowed = mask[: scores.shape[1]].to(scores.device) != 0
        return scores.masked_fill(~allowed, -torch.inf)
