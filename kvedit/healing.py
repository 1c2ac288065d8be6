"""Healing: which tokens of an edited text to compute again, so that an edit has its effect.

PIE (arXiv 2407.03157) computes the new tokens alone. What follows still says what the old text made
it say: half of an edit's effect is missing, and all of it where a token stands for what was before
it. Three kinds of tokens are worth computing again:

    after     what stands right behind an edit: the farther from it, the less an edit changes
    pivots    what gathers all before it: the mark behind which the answer begins, the end of a file
    most read what the answer looks at most, wherever it is

The rest is healed when there is time, from the first stale token on, until the text is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kvedit.diff import Hunk
from kvedit.edited import EditedReading
from kvedit.executors import Executor
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.sight import Rows, Sight
from kvedit.state import scores

SINK = 4  # tokens that everything rests its attention on: after an edit of them nothing is right


def after(
    changes: Sequence[Hunk], length: int, heal_after: int, pivots: Collection[int] = ()
) -> tuple[int, ...]:
    """Return which tokens to compute after an edit, ascending, in indices of the new text.

    changes     ascending, in indices of the old text
    length      tokens of the new text
    heal_after  kept tokens behind each hunk that are computed again; behind the last hunk as many
                again, if that is all that is left; where a pivot follows, which opens what stands
                behind a hole, up to twice as many, the more is new (four for each), and at least
                two for each
    pivots      indices in the new text of tokens that gather what is before them
    returns     new tokens, healed ones, the pivots behind the first change, and the last token

    With 2 tokens put in at 3 of 9, and 4 healed: 3 to 7, of which 5 are left to the end: 3 to 10.
    """
    if not changes or not length:
        return (length - 1,) if length else ()
    wanted, moved = set[int](), 0
    for hunk, limit in zip(changes, _limits(changes, length), strict=True):
        begin = hunk.start + moved
        moved += hunk.change
        end = begin + len(hunk.ids)
        typed = len(hunk.ids) if heal_after and end in pivots else 0
        most = max(heal_after, min(4 * typed, 2 * heal_after), 2 * typed)
        if limit == length and limit - end <= 2 * heal_after:
            most = 2 * heal_after
        wanted.update(range(begin, min(end + most, limit)))
    wanted.update(index for index in pivots if changes[0].start <= index < length)
    return tuple(sorted({*wanted, length - 1}))


def _limits(changes: Sequence[Hunk], length: int) -> list[int]:
    """Return for each hunk where the kept tokens behind it end, in the new text."""
    moved, limits = 0, list[int]()
    for hunk, following in pairwise(changes):
        moved += hunk.change
        limits.append(following.start + moved)
    return [*limits, length]


def next_chunk(reading: EditedReading, size: int) -> tuple[int, ...]:
    """Return the next tokens to heal when there is time, ascending: () = the text is exact.

    size  tokens of a chunk, at most

    From the first stale token on each one is right once it is computed, so none is computed twice.
    """
    return reading.stale[:size]


def restart(
    changes: Sequence[Hunk], length: int, again: int, edits: int = 0, most_edits: int | None = None
) -> bool:
    """Return whether to compute all from the first change on, rather than what healing asks for.

    length      tokens of the new text
    again       tokens that healing would compute, those it would choose later included
    edits       since the text was exact last, this one included
    most_edits  that are healed one by one, since errors add up; None = any number

    Everything is computed again also where the first tokens change, on which all attention rests.
    """
    if not changes:
        return False
    start = changes[0].start
    return (
        start < SINK or again >= length - start or (most_edits is not None and edits > most_edits)
    )


def anew(old_length: int, new: Sequence[int], start: int) -> tuple[Hunk, ...]:
    """Return the edit that computes a text from some token on, as if nothing behind were cached.

    start  up to it, old and new text are equal
    """
    if start >= old_length and start >= len(new):
        return ()
    return (Hunk(start, old_length, tuple(new[start:])),)


class Weighing:
    """A reader that takes note of what the last token of a forward reads (see `kvedit.together`).

    weights  [length] float32 by token of the text: the attention that it got times the length of
             its value, summed over heads and layers; of the last forward
    """

    def __init__(self, reading: EditedReading, executor: Executor) -> None:
        self._reading = reading
        self._executor = executor
        self.weights = torch.zeros(0)

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Read as the reading does, and weigh."""
        rows = self._reading.rows(layer, key, value)
        output = self._executor.read(layer, query, rows)
        got = _weights(layer, query[:, :, -1:], rows[-1].last(1))
        if layer.index == 0 or len(self.weights) != len(got):
            self.weights = torch.zeros_like(got)
        self.weights += got.to(self.weights.device)
        return output


def _weights(layer: Layer, query: Tensor, rows: Rows) -> Tensor:
    """Return what one row reads of each token of the text up to it, [tokens] float32.

    query  [batch, heads, 1, dim]  not rotated
    """
    products, norms = list[Tensor](), list[Tensor]()
    for sight in rows.sights:
        if not isinstance(sight, Sight):
            raise TypeError("what is ranked has no place in a text")
        distance = torch.as_tensor(sight.distance(rows.place), device=query.device)
        keys, norm = sight.span.keys, sight.span.values.float().norm(dim=-1)
        own = torch.as_tensor(sight.own(rows.place), device=query.device).view(1)
        kv = torch.arange(sight.span.first, sight.span.length, device=query.device)
        seen = sight.visible.mask(own, kv)
        turned = turn(layer.geometry, query.float(), distance.view(1))
        product = scores(turned, keys, layer.scaling, layer.softcap)
        if seen is not None:
            product = product[..., seen[0]]
            norm = norm[..., seen[0]]
        products.append(product)
        norms.append(norm)
    weights = torch.cat(products, -1).softmax(-1)[:, :, 0]
    norms_of_all = torch.cat(norms, -1)
    heads = weights.shape[1] // norms_of_all.shape[1]
    return (weights * norms_of_all.repeat_interleave(heads, 1)).sum((0, 1))


def most_read(weights: Tensor, candidates: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the tokens that were read most, ascending.

    weights     [tokens] by token of the text, as of `Weighing`; behind them nothing was read
    candidates  indices of the tokens that may be chosen
    count       how many, at most
    """
    among = [index for index in candidates if index < len(weights)]
    if count <= 0 or not among:
        return ()
    where = torch.tensor(among, device=weights.device)
    best = weights[where].topk(min(count, len(among))).indices
    return tuple(sorted(where[best].tolist()))
