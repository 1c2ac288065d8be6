"""A reading: how one layer's queries read the cached spans."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from kvedit.rotary import RotaryGeometry


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What a reading must know of an attention layer.

    index     place of the layer in the model, from 0
    geometry  how its queries and keys are rotated, or None for a layer without positions
    scaling   factor on the scores before the softmax
    softcap   bound of the scores, `cap * tanh(score / cap)`, or None
    tail      how many last tokens' outputs anybody reads, None = all: behind a prompt's last layer
              only the logits of its last token are wanted
    """

    index: int
    geometry: RotaryGeometry | None
    scaling: float
    softcap: float | None = None
    tail: int | None = None


class Reading(Protocol):
    """How queries read what is cached; one object per sequence, it owns the sequence's cache."""

    def borders(self) -> tuple[int, ...]:
        """Return where the forwards of a prompt begin, ascending, in tokens of the prompt.

        (0,) is one forward of everything; (0, 5, 90) are three; (90,) says that the first 90 tokens
        are cached already. The cuts depend on the prompt alone, so that a cache changes no bit.
        """
        ...

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Cache the new keys and values, and attend.

        query   [batch, heads, query, dim]     not rotated
        key     [batch, kv_heads, query, dim]  not rotated
        value   [batch, kv_heads, query, dim]
        returns [batch, heads, query, dim]; before the layer's tail it may say anything
        """
        ...

    def report(self) -> Mapping[str, Any]:
        """Return what the reading has to say of this sequence, for the reply's notes."""
        ...


class Company(Protocol):
    """Readings that read their tokens of one forward together, in one pass a layer."""

    @property
    def members(self) -> Collection[int]:
        """Return their places among all readings of the forward, ascending."""
        ...

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Do what each member's `read` does, for the tokens of all.

        query, key, value  as in `Reading.read`, the tokens of all readings on one axis; batch is 1
        returns            [1, heads, tokens, dim], the members' tokens one after the other
        raises             whatever goes wrong; no member has cached anything of this layer then,
                           and each can read it alone
        """
        ...


@runtime_checkable
class Sociable(Protocol):
    """A kind of reading that can do with others of its kind what each would do alone."""

    @classmethod
    def companies(
        cls, readings: Mapping[int, Any], rows: Sequence[slice], query: Tensor
    ) -> Iterable[Company]:
        """Return who reads a forward together; those in no company read alone.

        readings  of this kind, by place among all
        rows      of all readings by place, their tokens on the axis
        query     of one layer, [1, heads, query, dim]
        """
        ...
