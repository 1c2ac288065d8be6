"""Short prompts of several sequences, read in one pass a layer.

Alone, a short prompt costs many small products; side by side in one padded form they cost as many
in all. What each row reads is what it reads alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.executors.cpu.padded import Padded, Prompt, Room
from kvedit.ranking import nearest_first
from kvedit.reading import Layer
from kvedit.rotary import Phases, RotaryGeometry
from kvedit.sight import Ranked, Rows
from kvedit.state import capped

ANOTHER = 30_000  # what one more pass costs, in scores
MOST = 1 << 18  # scores of one head at once: 64 MB in float32 with 64 heads


def packs(
    rows: Mapping[int, Sequence[Rows]], tokens: Sequence[slice], query: Tensor
) -> Iterator[PromptPack]:
    """Yield who is read together (see `kvedit.executors.Packer`)."""
    found = {index: Prompt.of(own) for index, own in rows.items()}
    prompts = {index: prompt for index, prompt in found.items() if prompt is not None}
    for group in groups(prompts):
        yield PromptPack([prompts[index] for index in group], group, tokens, query)


def groups(prompts: Mapping[int, Prompt]) -> Iterator[list[int]]:
    """Yield which prompts are read together, ascending; the others go alone.

    A prompt joins those a little shorter, unless the padding costs more than a pass of its own.
    """
    rooms = {index: Room.of(prompt) for index, prompt in prompts.items()}
    short = [index for index, room in rooms.items() if room.work <= MOST]
    group: list[int] = []
    shared, spent = None, 0
    for index in sorted(short, key=lambda index: rooms[index].slots):
        room = rooms[index] if shared is None else shared.beside(rooms[index])
        work = (len(group) + 1) * room.work
        if group and work > min(spent + rooms[index].work + ANOTHER, MOST):
            yield sorted(group)
            group, room, work = [], rooms[index], rooms[index].work
        group.append(index)
        shared, spent = room, work
    if group:
        yield sorted(group)


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """Where the vectors of a padded form lie among [tokens * heads] vectors of the shared axis.

    query, key  [members * heads * slots] int64, for query heads and for key heads
    back        [tokens of members * heads] int64, where each vector lies in the padded form
    """

    query: Tensor
    key: Tensor
    back: Tensor

    @classmethod
    def of(cls, padded: Padded, heads: int, kv_heads: int) -> Heads:
        """Find the vectors of a layer."""
        query, key = (_entries(padded.token, count) for count in (heads, kv_heads))
        members, slots = padded.token.shape
        numbers = torch.arange(members * heads * slots, device=query.device)
        laid = numbers.view(members, heads, slots).transpose(1, 2)[padded.real]
        return cls(query, key, laid[padded.token[padded.real].argsort()].flatten())


def _entries(token: Tensor, heads: int) -> Tensor:
    head = torch.arange(heads, device=token.device)[:, None]
    return (token[:, None] * heads + head).flatten()


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """One layer's vectors in the padded form, in float32; the scores' factor is in the keys.

    query    [members, heads, slots, dim]      not rotated
    partner  [members, heads, slots, width]    what they turn with, or None without positions
    turned   [members, heads, slots, dim]      rotated for their positions
    raw      [members, kv_heads, inside, dim]  the set's keys, not rotated
    framed   [members, kv_heads, slots, dim]   keys rotated in their span's frame
    values   [members, kv_heads, slots, dim]
    """

    query: Tensor
    partner: Tensor | None
    turned: Tensor
    raw: Tensor
    framed: Tensor
    values: Tensor


class PromptPack:
    """Reads some prompts in one pass a layer; it keeps nothing of what it reads.

    prompts  of the members, in their order
    members  which sequences of the forward these are
    tokens   of each sequence, on the axis that all share
    query    of one layer
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        members: Sequence[int],
        tokens: Sequence[slice],
        query: Tensor,
    ) -> None:
        self.members = members
        self._suffixes = [prompt.suffix for prompt in prompts]
        self._padded = Padded.of(prompts, [tokens[index].start for index in members], query.device)
        self._heads: dict[tuple[int, int], Heads] = {}
        self._phases: dict[RotaryGeometry, tuple[Phases, Phases]] = {}

    def read(
        self,
        layer: Layer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Mapping[int, Sequence[Rows]],
    ) -> Tensor:
        """Return what all tokens of the prompts read (see `kvedit.executors.Pack`)."""
        heads, kv_heads, dim = query.shape[1], key.shape[1], query.shape[-1]
        entries = self._heads.get((heads, kv_heads))
        if entries is None:
            entries = self._heads[heads, kv_heads] = Heads.of(self._padded, heads, kv_heads)
        vectors = self._vectors(layer, entries, query, key, value)
        weight = self._importance(layer, vectors)
        read = self._rows(layer, vectors, self._page_scores(layer, vectors, self._distance(weight)))
        if self._padded.room.prefix:
            read = torch.cat((read, self._prefix(layer, vectors)), 2)
        self._tell(rows, weight[:, :, self._padded.room.spans :])
        flat = read.view(-1, dim).index_select(0, entries.back).to(query.dtype)
        return flat.view(-1, heads, dim).transpose(0, 1)[None]

    def _tell(self, rows: Mapping[int, Sequence[Rows]], weight: Tensor) -> None:
        """Tell who wants to know what suffix tokens weigh, [members, heads, suffix, spans]."""
        for index, suffix, own in zip(self.members, self._suffixes, weight, strict=True):
            for some in rows[index]:
                for sight in some.sights:
                    if isinstance(sight, Ranked) and sight.told is not None:
                        sight.told(own[None, :, :suffix, : len(sight.spans.pages.sizes)])

    def _vectors(
        self, layer: Layer, entries: Heads, query: Tensor, key: Tensor, value: Tensor
    ) -> Vectors:
        """Take one layer's vectors to the padded form, and turn those that stand fast."""
        geometry, inside = layer.geometry, self._padded.room.inside
        asked = self._take(query, entries.query)
        keys, values = self._take(key, entries.key), self._take(value, entries.key)
        keys *= layer.scaling
        raw = keys[:, :, :inside]
        if geometry is None:
            return Vectors(asked, None, asked, raw, keys, values)
        place, frame = self._known(geometry)
        partner = geometry.partner(asked)
        turned = geometry.rotate(asked, place, partner)
        return Vectors(asked, partner, turned, raw, geometry.rotate(keys, frame), values)

    def _take(self, vectors: Tensor, entries: Tensor) -> Tensor:
        """Take vectors to the padded form, in float32: [members, heads, slots, dim]."""
        _, heads, _, dim = vectors.shape
        members, slots = self._padded.token.shape
        flat = vectors[0].transpose(0, 1).reshape(-1, dim)
        taken = flat.index_select(0, entries).view(members, heads, slots, dim)
        return taken.to(torch.promote_types(vectors.dtype, torch.float32))

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

    def _importance(self, layer: Layer, vectors: Vectors) -> Tensor:
        """Return the mean attention that each span's tokens get (PINE, section 3.3).

        returns  [members, heads, askers, spans]; without sorting, 0 for asking spans
        """
        padded, room, raw = self._padded, self._padded.room, vectors.raw
        members, heads = vectors.query.shape[:2]
        rows = slice(0 if padded.sorts else room.inside, room.rows)
        product = _grouped(vectors.query[:, :, rows], raw) @ raw.transpose(-1, -2)
        product = capped(product, layer.softcap).view(members, heads, -1, room.inside)
        product += padded.rivals[:, None, rows]
        weights = torch.softmax(product, -1, out=product)
        weight = weights.view(members, heads, -1, room.spans, room.longest).sum(-1)
        weight *= padded.shares[:, None, None]
        if padded.sorts:
            own = weight[:, :, : room.inside] * padded.real[:, None, : room.inside, None]
            own = own.view(members, heads, room.spans, room.longest, -1).sum(3)
            weight = weight[:, :, room.inside :]
        else:
            own = weight.new_zeros((members, heads, room.spans, room.spans))
        return torch.cat((own, weight), 2)

    def _distance(self, weight: Tensor) -> Tensor:
        """Return how far each span's start is from each row.

        weight   [members, heads, askers, spans]
        returns  [members, heads, spans, rows] tokens
        """
        padded = self._padded
        order = nearest_first(weight + padded.nearest)
        reach = padded.lengths[:, None, None].expand_as(order).gather(-1, order).cumsum(-1)
        appears = torch.empty_like(order)
        appears.scatter_(-1, order, padded.end[:, None, None, None] - reach)
        by_row = appears.transpose(-1, -2).index_select(-1, padded.asker)
        return padded.position[:, None, None, : padded.room.rows] - by_row

    def _page_scores(self, layer: Layer, vectors: Vectors, distance: Tensor) -> Tensor:
        """Return the scores of the set: a query is turned once per span.

        distance  [members, heads, spans, rows] tokens
        returns   [members, kv_heads, spans, group, rows, longest]
        """
        members, kv_heads, _, dim = vectors.framed.shape
        spans, rows = distance.shape[2:]
        asking = _split(vectors.query[:, :, :rows], kv_heads)
        if layer.geometry is None or vectors.partner is None:
            paged = asking.expand(-1, -1, spans, -1, -1, -1)
        else:
            far = distance.view(members, kv_heads, -1, spans, rows).transpose(2, 3)
            phases = layer.geometry.looked_up(far, self._padded.reach)
            partner = _split(vectors.partner[:, :, :rows], kv_heads)
            paged = layer.geometry.rotate(asking, phases, partner)
        pages = vectors.framed[:, :, : self._padded.room.inside]
        pages = pages.view(members, kv_heads, spans, -1, dim).transpose(-1, -2)
        product = paged.reshape(*paged.shape[:3], -1, dim) @ pages
        return capped(product, layer.softcap).view(*paged.shape[:5], -1)

    def _rows(self, layer: Layer, vectors: Vectors, near: Tensor) -> Tensor:
        """Return what set and suffix read from all that they see.

        near     as from `_page_scores`
        returns  [members, heads, rows, dim]
        """
        inside, slots = self._padded.room.inside, self._padded.room.slots
        members, kv_heads, spans, group, rows, _ = near.shape
        framed, values = vectors.framed[:, :, inside:], vectors.values
        product = _grouped(vectors.turned[:, :, :rows], framed) @ framed.transpose(-1, -2)
        far = capped(product, layer.softcap).view(members, kv_heads, group, rows, -1)
        hidden = self._padded.hidden[:, None, None]
        scores = near.new_empty((members, kv_heads, group, rows, slots))
        own, masks = (
            each[..., :inside].view(*each.shape[:-1], spans, -1) for each in (scores, hidden)
        )
        torch.add(near.permute(0, 1, 3, 4, 2, 5), masks, out=own)
        torch.add(far, hidden[..., inside:], out=scores[..., inside:])
        weights = torch.softmax(scores, -1, out=scores)
        read: Tensor = weights.view(members, kv_heads, group * rows, slots) @ values
        return read.view(members, -1, rows, read.shape[-1])

    def _prefix(self, layer: Layer, vectors: Vectors) -> Tensor:
        """Return what the prefixes read; padding comes last, where no token sees it."""
        after = slice(self._padded.room.rows, None)
        key, value = vectors.framed[:, :, after], vectors.values[:, :, after]
        members, heads, length, _ = vectors.turned[:, :, after].shape
        product = _grouped(vectors.turned[:, :, after], key) @ key.transpose(-1, -2)
        scores = capped(product, layer.softcap).view(members, heads, length, length)
        scores += self._padded.later
        weights = torch.softmax(scores, -1, out=scores)
        return (weights.view(product.shape) @ value).view(members, heads, length, -1)


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """Put the queries that share a key head next to each other: [.., kv_heads, rows, dim]."""
    return query.reshape(len(query), key.shape[1], -1, query.shape[-1])


def _split(query: Tensor, kv_heads: int) -> Tensor:
    """Give queries the axes of what is read from spans: [.., kv_heads, 1, group, rows, dim]."""
    return query.view(len(query), kv_heads, 1, -1, *query.shape[2:])
