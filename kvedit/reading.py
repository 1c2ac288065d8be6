"""A reading: what one layer's queries look at. One technique is one reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from kvedit.rotary import RotaryGeometry
from kvedit.sight import Rows


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What the gate has measured of an attention layer.

    geometry  how its queries and keys are rotated, or None for a layer without positions
    window    tokens that a row sees, itself included; None = the whole text
    refusal   why it cannot be read otherwise than as it is, or None
    """

    geometry: RotaryGeometry | None
    window: int | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What is to be known of an attention layer in one forward.

    index     place of the layer in the model, from 0
    geometry  how its queries and keys are rotated, or None for a layer without positions
    scaling   factor on the scores before the softmax
    softcap   bound of the scores, `cap * tanh(score / cap)`, or None
    tail      how many last tokens' outputs anybody reads, None = all: behind a prompt's last layer
              only the logits of its last token are wanted
    window    tokens that a row sees, itself included; None = the whole text
    """

    index: int
    geometry: RotaryGeometry | None
    scaling: float
    softcap: float | None = None
    tail: int | None = None
    window: int | None = None


class Reading(Protocol):
    """What the tokens of one sequence look at; one object per sequence, it owns the cache."""

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model of these layers cannot be read so, or None."""
        ...

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return which tokens of a prompt each of its forwards reads, ascending; at least the last.

        length  tokens of the prompt

        Of 99 tokens, 0..99 is one forward of everything; 0..5, 5..90 and 90..99 are three; 5..40
        and 90..99 say that the other tokens are cached already. Where it is cut depends on the
        prompt alone, so that a cache changes no bit.
        """
        ...

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Cache new keys and values, and say what their tokens look at: in order, each once.

        key    [batch, kv_heads, query, dim]  not rotated
        value  [batch, kv_heads, query, dim]
        """
        ...

    def report(self) -> Mapping[str, Any]:
        """Return what the reading has to say of this sequence, for the reply's notes."""
        ...


@runtime_checkable
class Rewinding(Reading, Protocol):
    """A reading that can go back: what it has read of a text's beginning is of use to another."""

    @property
    def length(self) -> int:
        """Return how many tokens it has read."""
        ...

    @property
    def back_to(self) -> int:
        """Return the least length that it can go back to, besides none at all."""
        ...

    @property
    def size(self) -> int:
        """Return the bytes of its cache; any thread may ask, while others read by it."""
        ...

    def rewind(self, length: int) -> None:
        """Forget all but the first tokens, at least `back_to`: it is as if it had read no more."""
        ...


def between(cuts: Sequence[int], length: int) -> tuple[range, ...]:
    """Return the pieces of a prompt that is cut at some places: 0 and 5 of 9 give 0..5, 5..9."""
    return tuple(range(first, last) for first, last in pairwise((*cuts, length)))


def whole_text(layers: Sequence[LayerKind]) -> str | None:
    """Return why some layer does not let its rows see the whole text, or None."""
    if refusal := unreadable(layers):
        return refusal
    narrow = {index: each.window for index, each in enumerate(layers) if each.window is not None}
    if narrow:
        return f"layers {list(narrow)} see only the last {next(iter(narrow.values()))} tokens"
    return None


def unreadable(layers: Sequence[LayerKind]) -> str | None:
    """Return why some layer cannot be read by spans at all, or None."""
    return next((each.refusal for each in layers if each.refusal is not None), None)
