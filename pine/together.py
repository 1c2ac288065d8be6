"""Short prompts of several sequences, read in one pass a layer.

Alone, a short prompt costs many small products; side by side in one padded form they cost as many
in all. What each row reads is what `document_rows` and `suffix_rows` say, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kvedit.reading import Layer
from kvedit.rotary import Phases, RotaryGeometry
from kvedit.state import attend, capped
from pine.order import nearest_first
from pine.padded import Padded, Room
from pine.segments import Segments

WASTE = 3  # scores of the padded form, over those of its prompts: at most
MOST = 1 << 18  # scores of one head at once


def companies(prompts: Sequence[Segments]) -> Iterator[list[int]]:
    """Yield which prompts are worth reading together, by their places; the others go alone."""
    rooms = [Room.of(each) for each in prompts]
    group: list[int] = []
    for place in sorted(range(len(rooms)), key=lambda place: rooms[place].slots):
        wider = [*group, place]
        work = len(wider) * reduce(Room.beside, (rooms[each] for each in wider)).work
        if group and work > min(WASTE * sum(rooms[each].work for each in wider), MOST):
            yield group
            wider = [place]
        group = wider
    yield group


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """Where the vectors of a padded form lie among [tokens * heads] vectors of the shared axis.

    query, key  [members * heads * slots] int64, for query heads and for key heads
    back        [real tokens * heads] int64, where each vector lies in the padded form
    tokens      [real tokens] int64, their places on the shared axis
    """

    query: Tensor
    key: Tensor
    back: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, padded: Padded, heads: int, kv_heads: int) -> Heads:
        """Find the vectors of a layer."""
        query, key = (_entries(padded.token, count) for count in (heads, kv_heads))
        members, slots = padded.token.shape
        numbers = torch.arange(members * heads * slots, device=query.device)
        laid = numbers.view(members, heads, slots).transpose(1, 2)
        return cls(query, key, laid[padded.real].flatten(), padded.token[padded.real])


def _entries(token: Tensor, heads: int) -> Tensor:
    head = torch.arange(heads, device=token.device)[:, None]
    return (token[:, None] * heads + head).flatten()


class Pass:
    """Reads some prompts in one pass a layer; it keeps nothing of what it reads."""

    def __init__(self, padded: Padded) -> None:
        self._padded = padded
        self._heads: dict[tuple[int, int], Heads] = {}
        self._phases: dict[RotaryGeometry, tuple[Phases, Phases]] = {}

    def read(
        self, layer: Layer, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> Tensor:
        """Write what all tokens of the prompts read.

        query, key, value  [1, heads or kv_heads, query, dim]  not rotated, the shared axis
        output             [1, heads, query, dim]              only the prompts' rows are written
        returns            [members, heads, suffix, documents] the importance to suffix tokens
        """
        rows = self._padded.room.rows
        heads = self._vectors(query.shape[1], key.shape[1])
        wide = self._take(query, heads.query) * layer.scaling
        raw, values = self._take(key, heads.key), self._take(value, heads.key)
        weight = self._importance(layer, wide[:, :, :rows], raw)
        turned, framed, paged = self._turn(layer.geometry, wide, raw, self._distance(weight))
        read = self._rows(layer, turned[:, :, :rows], paged, framed, values)
        if self._padded.room.prefix:
            prefix = (each[:, :, rows:] for each in (turned, framed, values))
            read = torch.cat((read, _causally(layer, *prefix)), 2)
        vectors = read.view(-1, read.shape[-1]).index_select(0, heads.back).to(output.dtype)
        laid = vectors.view(len(heads.tokens), query.shape[1], -1)
        output[0].transpose(0, 1).index_copy_(0, heads.tokens, laid)
        return weight[:, :, self._padded.room.documents :]

    def _vectors(self, heads: int, kv_heads: int) -> Heads:
        known = self._heads.get((heads, kv_heads))
        if known is None:
            known = self._heads[heads, kv_heads] = Heads.of(self._padded, heads, kv_heads)
        return known

    def _take(self, vectors: Tensor, entries: Tensor) -> Tensor:
        """Take vectors to the padded form, in float32: [members, heads, slots, dim]."""
        _, heads, _, dim = vectors.shape
        members, slots = self._padded.token.shape
        flat = vectors[0].transpose(0, 1).reshape(-1, dim)
        taken = flat.index_select(0, entries).view(members, heads, slots, dim)
        return taken.to(torch.promote_types(vectors.dtype, torch.float32))

    def _importance(self, layer: Layer, query: Tensor, key: Tensor) -> Tensor:
        """Return the mean attention that each document's tokens get (PINE, section 3.3).

        query    [members, heads, rows, dim]      not rotated, scaled
        key      [members, kv_heads, slots, dim]  not rotated
        returns  [members, heads, askers, documents]
        """
        padded, room, heads = self._padded, self._padded.room, query.shape[1]
        rows = slice(0 if padded.sorts else room.inside, None)
        product = _grouped(query[:, :, rows], key) @ key[:, :, : room.inside].transpose(-1, -2)
        product = capped(product, layer.softcap).view(len(key), heads, -1, room.inside)
        product += padded.rivals[:, None, rows]
        weights = torch.softmax(product, -1, out=product)
        shape = (len(key), heads, -1, room.documents)
        weight = weights.view(*shape, room.longest).sum(-1)
        weight /= padded.lengths.clamp(min=1)[:, None, None]
        if not padded.sorts:
            none = weight.new_zeros((len(key), heads, room.documents, room.documents))
            return torch.cat((none, weight), 2)
        own = padded.real[:, None, : room.inside, None] * weight[:, :, : room.inside]
        own = own.view(len(key), heads, room.documents, room.longest, -1).sum(3)
        return torch.cat((own, weight[:, :, room.inside :]), 2)

    def _distance(self, weight: Tensor) -> Tensor:
        """Return how far each document's start is from each row.

        weight   [members, heads, askers, documents]
        returns  [members, heads, documents, rows] tokens
        """
        padded = self._padded
        order = nearest_first(weight + padded.bias[:, None])
        reach = padded.lengths[:, None, None].expand_as(order).gather(-1, order).cumsum(-1)
        appears = torch.empty_like(order)
        appears.scatter_(-1, order, padded.end[:, None, None, None] - reach)
        by_row = appears.transpose(-1, -2).index_select(-1, padded.asker)
        return padded.position[:, None, None, : padded.room.rows] - by_row

    def _turn(
        self, geometry: RotaryGeometry | None, query: Tensor, key: Tensor, distance: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Turn queries to their positions, keys in their frames, and queries to each document.

        query    [members, heads, slots, dim]
        key      [members, kv_heads, slots, dim]
        returns  the first two turned, and [members, kv_heads, documents, group, rows, dim]
        """
        members, heads, _, dim = query.shape
        kv_heads, (documents, rows) = key.shape[1], distance.shape[2:]
        group = heads // kv_heads
        asking = query[:, :, :rows].view(members, kv_heads, 1, group, rows, dim)
        if geometry is None:
            return query, key, asking.expand(-1, -1, documents, -1, -1, -1)
        place, frame = self._known(geometry)
        partner = geometry.partner(query)
        far = distance.view(members, kv_heads, group, documents, rows).transpose(2, 3)
        own = partner[:, :, :rows].view(members, kv_heads, 1, group, rows, -1)
        paged = geometry.rotate(asking, geometry.looked_up(far, self._padded.reach), own)
        return geometry.rotate(query, place, partner), geometry.rotate(key, frame), paged

    def _known(self, geometry: RotaryGeometry) -> tuple[Phases, Phases]:
        """Return the phases of the queries' positions and of the keys' frames, for all heads."""
        known = self._phases.get(geometry)
        if known is None:
            padded = self._padded
            place, frame = (
                geometry.looked_up(each[:, None], padded.reach)
                for each in (padded.position, padded.frame)
            )
            known = self._phases[geometry] = place, frame
        return known

    def _rows(
        self, layer: Layer, turned: Tensor, paged: Tensor, framed: Tensor, values: Tensor
    ) -> Tensor:
        """Return what documents and suffix read from all that they see.

        turned          [members, heads, rows, dim]
        paged           [members, kv_heads, documents, group, rows, dim]
        framed, values  [members, kv_heads, slots, dim]
        returns         [members, heads, rows, dim]
        """
        inside, slots = self._padded.room.inside, self._padded.room.slots
        members, kv_heads, documents, group, rows, dim = paged.shape
        pages = framed[:, :, :inside].view(members, kv_heads, documents, -1, dim)
        near = paged.reshape(*paged.shape[:3], -1, dim) @ pages.transpose(-1, -2)
        near = capped(near, layer.softcap).view(*paged.shape[:5], -1)
        far = _grouped(turned, framed) @ framed[:, :, inside:].transpose(-1, -2)
        far = capped(far, layer.softcap).view(members, kv_heads, group, rows, -1)
        hidden = self._padded.hidden[:, None, None]
        scores = near.new_empty((members, kv_heads, group, rows, slots))
        torch.add(
            near.permute(0, 1, 3, 4, 2, 5),
            hidden[..., :inside].unflatten(-1, (documents, -1)),
            out=scores[..., :inside].unflatten(-1, (documents, -1)),
        )
        torch.add(far, hidden[..., inside:], out=scores[..., inside:])
        weights = torch.softmax(scores, -1, out=scores)
        read: Tensor = weights.view(members, kv_heads, group * rows, slots) @ values
        return read.view(members, -1, rows, dim)


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """Put the queries that share a key head next to each other: [.., kv_heads, rows, dim]."""
    return query.reshape(len(query), key.shape[1], -1, query.shape[-1])


def _causally(layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return what the prefixes read; padding comes last, where no token sees it."""
    if layer.softcap is None:
        grouped = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=1.0, enable_gqa=grouped
        )
    seen = torch.ones((query.shape[2],) * 2, dtype=torch.bool, device=query.device).tril()
    return attend(query, key, value, 1.0, visible=seen, softcap=layer.softcap).output
