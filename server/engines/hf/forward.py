"""The two ways through the model: as transformers does, and through the door with a reading."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kvedit.hf import Door
from kvedit.reading import Reading


class Forward(Protocol):
    """The model with one sequence's memory of what it has read."""

    def prefill(self, ids: Tensor, keep: int) -> Tensor:
        """Read the prompt.

        ids      [batch, query] int64
        keep     how many last positions to return logits for; 0 = all
        returns  [batch, keep, vocab]
        """
        ...

    def decode(self, token: Tensor) -> Tensor:
        """Read one more token, [batch, 1] int64; return its logits, [batch, 1, vocab]."""
        ...

    def report(self) -> Mapping[str, Any]:
        """Return notes for the reply, by stage."""
        ...


class Prefill:
    """The first forward of a prompt on the stock path, run once for all its choices.

    takers  how many choices will take it; each gets a cache of its own with the same bits
    """

    def __init__(self, model: PreTrainedModel, takers: int) -> None:
        self._model = model
        self._takers = takers
        self._read: tuple[Tensor, DynamicCache] | None = None

    def take(self, ids: Tensor, keep: int) -> tuple[Tensor, DynamicCache]:
        """Return the prompt's logits and a cache that holds it."""
        if self._read is None:
            # `generate` passes a mask of ones and counted positions too: the same bits without
            cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
            self._read = run(self._model, ids, cache, keep), cache
        self._takers -= 1
        logits, cache = self._read
        if self._takers:
            return logits, copy.deepcopy(cache)
        self._read = None
        return logits, cache


class Stock:
    """The model's own forward with its own cache, exactly as `generate` calls it."""

    def __init__(self, model: PreTrainedModel, prefill: Prefill) -> None:
        self._model = model
        self._prefill = prefill
        self._cache: DynamicCache | None = None

    def prefill(self, ids: Tensor, keep: int) -> Tensor:
        """Read the prompt (see `Forward`)."""
        logits, self._cache = self._prefill.take(ids, keep)
        return logits

    def decode(self, token: Tensor) -> Tensor:
        """Read one more token (see `Forward`)."""
        assert self._cache is not None, "decode comes after prefill"
        return run(self._model, token, self._cache, 1)

    def report(self) -> Mapping[str, Any]:
        """Return nothing: the stock path has nothing to say."""
        return {}


class Read:
    """The model through the door, with a reading that owns the sequence's cache."""

    def __init__(self, door: Door, reading: Reading) -> None:
        self._door = door
        self._reading = reading

    def prefill(self, ids: Tensor, keep: int) -> Tensor:
        """Read the prompt (see `Forward`)."""
        return self._door.forward(ids, self._reading, keep)

    def decode(self, token: Tensor) -> Tensor:
        """Read one more token (see `Forward`)."""
        return self._door.forward(token, self._reading, 1)

    def report(self) -> Mapping[str, Any]:
        """Return what the reading says of this sequence."""
        return self._reading.report()


def run(model: PreTrainedModel, ids: Tensor, cache: DynamicCache, keep: int) -> Tensor:
    """Run the stock forward on new tokens; `keep` as in `Forward.prefill`."""
    logits: Tensor = model(
        input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=keep
    ).logits
    return logits
