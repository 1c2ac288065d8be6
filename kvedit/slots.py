"""Slots: keys and values of tokens in any order, each key rotated for the number of its slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kvedit.edit import Piece
from kvedit.rotary import RotaryGeometry
from kvedit.spans import FIRST_CAPACITY, Span


class Slots:
    """One layer's cache of a text that is edited.

    geometry  turns each key for its slot, in float32; None = the layer has no positions

    Keys are kept as the model made them, too: when a text is laid out anew they are turned from
    those, so that no key is ever rounded twice, and a text that was moved a thousand times is as
    near to one that was not as one that was moved once.
    """

    __slots__ = ("_keys", "_raw", "_values", "geometry")

    def __init__(self, geometry: RotaryGeometry | None) -> None:
        self.geometry = geometry
        self._keys: Tensor | None = None
        self._raw: Tensor | None = None
        self._values: Tensor | None = None

    @property
    def size(self) -> int:
        """Return the bytes of the buffers."""
        buffers = {id(each): each for each in (self._keys, self._raw, self._values)}
        return sum(each.nbytes for each in buffers.values() if each is not None)

    def write(self, pieces: Sequence[Piece], key: Tensor, value: Tensor) -> None:
        """Put tokens into their slots, in place of what is there.

        pieces  the slots, as many as there are tokens
        key     [batch, kv_heads, kv, dim]  not rotated
        value   [batch, kv_heads, kv, dim]
        """
        keys, raw, values = self._with_room(max(piece.end for piece in pieces), key)
        if len(pieces) == 1:
            where = slice(pieces[0].slot, pieces[0].end)
            keys[:, :, where] = self._turned(key, where.start)
            values[:, :, where] = value
            if raw is not keys:
                raw[:, :, where] = key
            return
        numbers = [slot for piece in pieces for slot in range(piece.slot, piece.end)]
        slots = torch.tensor(numbers, device=key.device)
        turned = key
        if self.geometry is not None:
            turned = self.geometry.turn(key, slots, max(numbers) + 1)
        keys.index_copy_(2, slots, turned)
        values.index_copy_(2, slots, value)
        if raw is not keys:
            raw.index_copy_(2, slots, key)

    def span(self, first: int, last: int) -> Span:
        """Return the slots from first to before last as a span; nothing is copied."""
        assert self._keys is not None and self._values is not None, "slots are read once written"
        where = slice(first, last)
        keys, values = self._keys[:, :, where], self._values[:, :, where]
        return Span.holding(self.geometry, keys, values, first)

    def renew(self, pieces: Sequence[Piece]) -> None:
        """Lay a text out anew: token n in slot n, its key turned once from the one first made.

        pieces  where it lies now, in order; what lies in its place already is left alone
        """
        kept = pieces[0].count if pieces and pieces[0].slot == 0 else 0
        moved = pieces[1:] if kept else pieces
        if self._keys is None or not moved:
            return
        # some of the slots may have been given to tokens that were not computed yet
        keys, own, values = self._with_room(max(piece.end for piece in pieces), self._keys)
        raw, value = (
            torch.cat([each[:, :, piece.slot : piece.end] for piece in moved], 2)
            for each in (own, values)
        )
        where = slice(kept, kept + raw.shape[2])
        keys[:, :, where] = self._turned(raw, kept)
        values[:, :, where] = value
        own[:, :, where] = raw

    def _turned(self, key: Tensor, first: int) -> Tensor:
        if self.geometry is None:
            return key
        return self.geometry.rotate(key, self.geometry.between(first, first + key.shape[2]))

    def _with_room(self, end: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the buffers, with room for so many slots: keys, keys not rotated, values."""
        room = 0 if self._keys is None else self._keys.shape[2]
        if self._keys is None or self._raw is None or self._values is None or room < end:
            wanted = max(FIRST_CAPACITY, end if not room else 2 * end)
            self._keys, self._values = (
                _grown(each, like, wanted) for each in (self._keys, self._values)
            )
            # without positions the two are one
            self._raw = self._keys if self.geometry is None else _grown(self._raw, like, wanted)
        return self._keys, self._raw, self._values


def _grown(kept: Tensor | None, like: Tensor, room: int) -> Tensor:
    """Return a buffer that begins with what is kept.

    The rest is zero: a weight of 0 on a slot that was not written yet must give 0, and not NaN.
    """
    grown = like.new_zeros((*like.shape[:2], room, like.shape[3]))
    if kept is not None:
        grown[:, :, : kept.shape[2]] = kept
    return grown
