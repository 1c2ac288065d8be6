"""The two ways through the model: as transformers does, and through the door with a reading."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from math import log
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kvedit.average import AverageReading
from kvedit.hf import Door
from kvedit.plain import PlainReading
from kvedit.reading import Reading
from kvedit.rerank import RerankReading


class Forward(Protocol):
    """The model with one sequence's memory of what it has read."""

    @property
    def shares(self) -> bool:
        """Return whether its next tokens may be read in one forward with other sequences'."""
        ...

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return which tokens of a prompt its forwards read (see `kvedit.reading.Reading`)."""
        ...

    def read(self, ids: Tensor, keep: int | None) -> Tensor:
        """Read the next piece of the prompt, or one more token.

        ids      [1, query] int64
        keep     how many last positions to return logits for; 0 = all, None = none
        returns  [1, keep, vocab]
        """
        ...

    def reading(self) -> Reading:
        """Return the memory as a reading, to share a forward with; from now on it stays one."""
        ...

    def report(self) -> Mapping[str, Any]:
        """Return notes for the reply, by stage."""
        ...


class Prefill:
    """The first forward of a prompt on the stock path, run once for all its choices.

    takers  how many choices will take it; each gets a cache of its own with the same bits
    """

    def __init__(self, model: PreTrainedModel, takers: int) -> None:
        self.single = takers == 1
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


class StockForward:
    """The model's own forward with its own cache, exactly as `generate` calls it.

    A sequence that shares a forward leaves this path for the plain reading: its rotated keys are
    those of a span that stands where it is, so nothing is computed again.

    leaves  whether it leaves after the prompt in any case, since the reading's steps are faster
    """

    def __init__(self, door: Door, prefill: Prefill, leaves: bool = False) -> None:
        self._door = door
        self._open = door.suits(PlainReading()) is None
        self._leaves = leaves and self._open
        self._prefill = prefill
        self._cache: DynamicCache | None = None
        self._plain: PlainReading | None = None

    @property
    def shares(self) -> bool:
        """Return whether the door is open; choices of one prompt share their prefill instead."""
        return self._open and (self._cache is not None or self._prefill.single)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return one forward of everything."""
        return (range(length),)

    def read(self, ids: Tensor, keep: int | None) -> Tensor:
        """Read the prompt, then what follows it (see `Forward`)."""
        if self._plain is not None:
            return self._door.forward(ids, self._plain, keep)
        keep = 1 if keep is None else keep
        if self._cache is not None and self._leaves:
            return self._door.forward(ids, self.reading(), keep)
        if self._cache is not None:
            return run(self._door.model, ids, self._cache, keep)
        logits, self._cache = self._prefill.take(ids, keep)
        return logits

    def reading(self) -> Reading:
        """Return what was read as a plain reading (see `Forward`)."""
        if self._plain is None and self._cache is None:
            self._plain = PlainReading()
        elif self._plain is None and self._cache is not None:
            layers: Iterable[Any] = self._cache.layers
            held = {index: (layer.keys, layer.values) for index, layer in enumerate(layers)}
            length, geometries = self._cache.get_seq_length(), self._door.geometries
            self._plain, self._cache = PlainReading.holding(length, held, geometries), None
        assert self._plain is not None
        return self._plain

    def report(self) -> Mapping[str, Any]:
        """Return nothing: the stock path has nothing to say."""
        return {}


class ReadingForward:
    """The model through the door, with a reading that owns the sequence's cache."""

    def __init__(self, door: Door, reading: Reading) -> None:
        self._door = door
        self._reading = reading

    @property
    def shares(self) -> bool:
        """Return yes: what a reading reads may stand in any forward."""
        return True

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return what of the prompt the reading wants to read, forward by forward."""
        return self._reading.pieces(length)

    def read(self, ids: Tensor, keep: int | None) -> Tensor:
        """Read a piece of the prompt, or one more token (see `Forward`)."""
        return self._door.forward(ids, self._reading, keep)

    def reading(self) -> Reading:
        """Return the reading."""
        return self._reading

    def report(self) -> Mapping[str, Any]:
        """Return what the reading says of this sequence."""
        return self._reading.report()


class AverageForward:
    """The model through the door, several orders of the documents side by side, as one answer.

    probabilities  what is averaged: they themselves, or their logarithms (and then scaled to sum to
                   one, as a product of experts)

    It shares no forward with other sequences: it is a batch by itself.
    """

    shares = False

    def __init__(self, door: Door, reading: AverageReading, *, probabilities: bool) -> None:
        self._door = door
        self._reading = reading
        self._probabilities = probabilities

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return where the reading wants the prompt cut."""
        return self._reading.pieces(length)

    def read(self, ids: Tensor, keep: int | None) -> Tensor:
        """Read a piece of the prompt, or one more token, in every order.

        ids      [1, query] int64 of the canonical order
        returns  [1, 1, vocab] natural-log probabilities, float32
        """
        spread, ends = self._reading.spread(ids)
        if keep is None:
            return self._door.forward(spread, self._reading, None)
        assert keep == 1, "a prompt that is scored is read plainly"
        scores = torch.log_softmax(self._door.forward(spread, self._reading, ends).float(), -1)
        if self._probabilities:
            return scores.logsumexp(1, keepdim=True) - log(len(ends))
        return torch.log_softmax(scores.mean(1, keepdim=True), -1)

    def reading(self) -> Reading:
        """Return the reading; a forward that is shared would read one order alone."""
        return self._reading

    def report(self) -> Mapping[str, Any]:
        """Return what the reading says of this sequence."""
        return self._reading.report()


class RerankForward(ReadingForward):
    """The model through the door: the documents are scored, then read in the order found.

    Once the prompt is read, the sequence is as any other.
    """

    def __init__(self, door: Door, reading: RerankReading) -> None:
        super().__init__(door, reading)
        self._unranked: RerankReading | None = reading

    @property
    def shares(self) -> bool:
        """Return whether the order is found: that takes forwards of its own."""
        return self._unranked is None

    def read(self, ids: Tensor, keep: int | None) -> Tensor:
        """Find the order and read the whole prompt in it; then one more token (see `Forward`)."""
        if self._unranked is not None:
            ids = self._unranked.rank(self._door.forward, ids)
            self._unranked = None
        return super().read(ids, keep)


def through(door: Door, reading: Reading, *, probabilities: bool) -> Forward:
    """Return the model with a reading, in the way that the reading asks for.

    probabilities  what `AverageForward` averages
    """
    if isinstance(reading, AverageReading):
        return AverageForward(door, reading, probabilities=probabilities)
    if isinstance(reading, RerankReading):
        return RerankForward(door, reading)
    return ReadingForward(door, reading)


def run(model: PreTrainedModel, ids: Tensor, cache: DynamicCache, keep: int) -> Tensor:
    """Run the stock forward on new tokens (see `Forward.read`)."""
    logits: Tensor = model(
        input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=keep
    ).logits
    return logits
