"""Spans: runs of tokens that always move together, cached in their own frame."""

from __future__ import annotations

from torch import Tensor

from kvedit.pages import Pages
from kvedit.rotary import RotaryGeometry, turn

FIRST_CAPACITY = 64  # tokens; a buffer doubles from here

Pair = tuple[Tensor, Tensor]  # keys and values, [batch, kv_heads, kv, dim] each


class Span:
    """Keys and values of one span, in buffers that grow geometrically.

    geometry  turns each key once, for its place in the span's frame; None = keys stay raw, and all
              tokens of the span appear where it starts (or the layer has no positions)
    first     the place in the frame of the oldest token that is held
    length    the place in the frame of the next token

    Appending n tokens one by one copies O(n) entries in all, never the whole cache per token, and
    so does a ring that drops as many as it takes in. Moving the span moves nothing here. What is
    appended is turned when somebody reads it: an executor may do that on its way.
    """

    __slots__ = ("_begin", "_keys", "_pending", "_shared", "_values", "first", "geometry", "length")

    def __init__(self, geometry: RotaryGeometry | None, first: int = 0) -> None:
        self.geometry = geometry
        self.first = self.length = first
        self._begin = 0  # of the oldest token that is held, in the buffers
        self._shared = 0  # what lies before is read by others too: it is not written again
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._pending: list[Pair] = []

    @classmethod
    def holding(
        cls, geometry: RotaryGeometry | None, keys: Tensor, values: Tensor, first: int = 0
    ) -> Span:
        """Return a span of keys that are turned already, for places from `first` on; shared."""
        span = cls(geometry, first)
        span._keys, span._values = _in_rows(keys, values)
        span.length, span._shared = first + keys.shape[2], keys.shape[2]
        return span

    @property
    def held(self) -> int:
        """Return how many tokens can be read."""
        return self.length - self.first

    @property
    def keys(self) -> Tensor:
        """Return the keys, [batch, kv_heads, held, dim], a view."""
        return self._settled()[0]

    @property
    def values(self) -> Tensor:
        """Return the values, [batch, kv_heads, held, dim], a view."""
        return self._settled()[1]

    @property
    def size(self) -> int:
        """Return the bytes of the buffers; a cut keeps all of those that it is cut from."""
        if self.held:
            self._settled()
        return self.buffered

    @property
    def buffered(self) -> int:
        """Return the bytes of the buffers as they are: any thread may ask."""
        buffers = (each for each in (self._keys, self._values) if each is not None)
        return sum(each.untyped_storage().nbytes() for each in buffers)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add tokens at the end.

        key    [batch, kv_heads, kv, dim]  not rotated
        value  [batch, kv_heads, kv, dim]
        """
        if key.shape[2]:
            self._pending.append((key, value))
            self.length += key.shape[2]

    def claim(self, most: int) -> tuple[Tensor, Tensor, int, Pair | None]:
        """Return the buffers, [batch, kv_heads, room, dim], and what the caller must write there.

        Heads lie as far apart in both, which may be further than `room`: a cut is a part of more.

        most     tokens that the caller is ready to write
        returns  keys, values, the index there of the oldest token that is held, and the last tokens
                 of the span if they are not there yet, not rotated: the caller writes them
        """
        fresh = None
        if len(self._pending) == 1 and self._pending[0][0].shape[2] <= most:
            fresh = self._pending[0]
            self._make_room(*fresh)
            self._pending.clear()
        elif self._pending:
            self._settled()
        assert self._keys is not None and self._values is not None, "a span is read once it holds"
        return self._keys, self._values, self._begin, fresh

    def drop(self, count: int) -> None:
        """Forget the oldest tokens; the others stay where they are in the frame."""
        assert 0 <= count <= self.held, "a span drops what it holds"
        if count:
            self._settled()
            self.first += count
            self._begin += count

    def retract(self, count: int) -> None:
        """Forget the newest tokens: others take their places."""
        assert 0 <= count <= self.held, "a span retracts what it holds"
        if count:
            self._settled()
            self.length -= count

    def cut(self, begin: int, end: int) -> Span:
        """Return the tokens at some places of the frame as a span, which stay where they are.

        Nothing is copied: neither span writes where the other reads.
        """
        assert self.first <= begin <= end <= self.length, "a cut lies within what is held"
        keys, values = self._settled() if self.held else (None, None)
        part = Span(self.geometry, begin)
        part.length = end
        if keys is not None and values is not None:
            rows = slice(begin - self.first, end - self.first)
            part._keys, part._values = keys[:, :, rows], values[:, :, rows]
            part._shared = part.held
            self._shared = max(self._shared, self._begin + rows.stop)
        return part

    def _settled(self) -> Pair:
        """Turn and write what is pending; return what is held."""
        pending, self._pending = self._pending, []
        place = self.length - sum(key.shape[2] for key, _ in pending)
        for key, value in pending:
            count = key.shape[2]
            keys, values = self._make_room(key, value, place + count)
            rows = slice(self._begin + place - self.first, self._begin + place + count - self.first)
            keys[:, :, rows] = key if self.geometry is None else self._turned(key, place)
            values[:, :, rows] = value
            place += count
        assert self._keys is not None and self._values is not None, "a span is read once it holds"
        rows = slice(self._begin, self._begin + self.held)
        return self._keys[:, :, rows], self._values[:, :, rows]

    def _turned(self, key: Tensor, place: int) -> Tensor:
        assert self.geometry is not None
        return self.geometry.rotate(key, self.geometry.between(place, place + key.shape[2]))

    def _make_room(self, key: Tensor, value: Tensor, length: int | None = None) -> Pair:
        """Make the buffers large enough for what is held, to before place `length` in the frame."""
        held = (self.length if length is None else length) - self.first
        old = held - key.shape[2]
        if self._keys is None or self._values is None:
            self._keys = self._values = key[:, :, :0]
        if self._keys.shape[2] < self._begin + held or self._begin + old < self._shared:
            # a ring's buffers do not grow: what it drops makes room, and is left behind
            room = max(FIRST_CAPACITY, held if not old else 2 * held)
            rows = slice(self._begin, self._begin + old)
            kept = (self._keys[:, :, rows], self._values[:, :, rows])
            self._keys, self._values = (
                _grown(*each, room) for each in zip(kept, (key, value), strict=True)
            )
            self._begin = self._shared = 0
        return self._keys, self._values


class SpanSet:
    """Spans side by side in one buffer, in pages of one length: what is read in any order.

    pages     how their tokens lie
    geometry  as in `Span`; keys are kept raw as well, since weights leave positions out

    Once filled, nothing of it changes.
    """

    __slots__ = ("_laid", "_pending", "geometry", "pages")

    def __init__(self, pages: Pages, geometry: RotaryGeometry | None) -> None:
        self.pages = pages
        self.geometry = geometry
        self._pending: Pair | None = None
        self._laid: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def fresh(self) -> bool:
        """Return whether nobody has read it yet."""
        return self._pending is not None

    @property
    def raw(self) -> Tensor:
        """Return the keys, not rotated: [batch, kv_heads, slots, dim]."""
        return self._settled()[0]

    @property
    def framed(self) -> Tensor:
        """Return the keys, rotated in their span's frame: [batch, kv_heads, slots, dim]."""
        return self._settled()[1]

    @property
    def values(self) -> Tensor:
        """Return the values, [batch, kv_heads, slots, dim]."""
        return self._settled()[2]

    @property
    def size(self) -> int:
        """Return the bytes of all tensors."""
        return sum(each.nbytes for each in self._settled())

    def fill(self, key: Tensor, value: Tensor) -> None:
        """Take the tokens of all spans, one after the other, [batch, kv_heads, tokens, dim] each.

        key  not rotated
        """
        self._pending = key, value

    def span(self, index: int) -> Span:
        """Return one of the spans, first token at 0; it shares the memory."""
        slots = self.pages.bounds[index]
        rows = slice(slots.start, slots.start + self.pages.sizes[index])
        return Span.holding(self.geometry, self.framed[:, :, rows], self.values[:, :, rows])

    def _settled(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._pending is not None:
            (key, value), self._pending = self._pending, None
            frame = self.pages.place[self.pages.slot_of]
            raw = self.pages.lay(key)
            framed = raw
            if self.geometry is not None:
                framed = self.pages.lay(turn(self.geometry, key, frame, max(self.pages.sizes)))
            self._laid = raw, framed, self.pages.lay(value)
        assert self._laid is not None, "a set is read once it is filled"
        return self._laid


def _grown(kept: Tensor, like: Tensor, room: int) -> Tensor:
    """Return a buffer with room for so many tokens that begins with those that are kept."""
    grown = like.new_empty((*like.shape[:2], room, like.shape[3]))
    grown[:, :, : kept.shape[2]] = kept
    return grown


def _in_rows(keys: Tensor, values: Tensor) -> Pair:
    """Return the same with each head's tokens behind one another, as buffers have them."""
    (_, head, token, one), dim = keys.stride(), keys.shape[3]
    ordered = one == 1 and token == dim and head % dim == 0 and keys.stride() == values.stride()
    return (keys, values) if ordered else (keys.contiguous(), values.contiguous())
