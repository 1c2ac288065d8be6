"""Spans: runs of tokens that always move together, cached in their own frame."""

from __future__ import annotations

from torch import Tensor

FIRST_CAPACITY = 64  # tokens; a buffer doubles from here


class Span:
    """Keys and values of one span, in buffers that grow geometrically.

    Appending n tokens one by one copies O(n) entries in all, never the whole cache per token. Keys
    are rotated once, for their place in the span's own frame; moving the span moves nothing here.
    """

    __slots__ = ("_keys", "_values", "length")

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    @property
    def keys(self) -> Tensor:
        """Return the keys, [batch, kv_heads, length, dim], a view."""
        assert self._keys is not None, "a span is read after its first append"
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor:
        """Return the values, [batch, kv_heads, length, dim], a view."""
        assert self._values is not None, "a span is read after its first append"
        return self._values[:, :, : self.length]

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add tokens at the end.

        key    [batch, kv_heads, kv, dim]  rotated for their places in the span's frame
        value  [batch, kv_heads, kv, dim]
        """
        begin, end = self.length, self.length + key.shape[2]
        keys, values = self.extend(key.shape[2], key, value)
        keys[:, :, begin:end] = key
        values[:, :, begin:end] = value

    def extend(self, count: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Make place for tokens at the end, which the caller writes.

        key, value  [batch, kv_heads, kv, dim] tensors of their kind
        returns     the buffers, [batch, kv_heads, room, dim], contiguous, with place at `length`
        """
        end = self.length + count
        self._keys = _room(self._keys, self.length, end, key)
        self._values = _room(self._values, self.length, end, value)
        self.length = end
        return self._keys, self._values


def _room(buffer: Tensor | None, used: int, needed: int, like: Tensor) -> Tensor:
    """Return a buffer with place for `needed` tokens that holds the `used` first ones."""
    if buffer is not None and buffer.shape[2] >= needed:
        return buffer
    capacity = max(FIRST_CAPACITY, needed, 0 if buffer is None else 2 * buffer.shape[2])
    grown = like.new_empty((*like.shape[:2], capacity, like.shape[3]))
    if buffer is not None:
        grown[:, :, :used] = buffer[:, :, :used]
    return grown
