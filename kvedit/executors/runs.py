"""How executors go through a forward's rows: what nobody reads left out, what is joint together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from kvedit.executors import wanted
from kvedit.executors.torch import TorchExecutor
from kvedit.reading import Layer
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span, SpanSet
from kvedit.visibility import everything

Read = Callable[[Layer, Tensor, Sequence[Rows]], Tensor]


def blank(query: Tensor) -> Tensor:
    """Return a tensor to be written, like queries; a head's numbers lie side by side."""
    whole = query.stride(-1) == 1
    return torch.empty_like(
        query, memory_format=torch.preserve_format if whole else torch.contiguous_format
    )


def in_runs(layer: Layer, query: Tensor, rows: Sequence[Rows], read: Read) -> Tensor:
    """Return what the tokens of a forward read, run by run; zeros where nobody wants it.

    query    [batch, heads, query, dim]  not rotated
    read     is given the queries of a run, [batch, heads, query, dim], and its rows
    returns  [batch, heads, query, dim]
    """
    count, parts, done = query.shape[2], list[Tensor](), 0
    for run in _runs(wanted(layer, rows, count)):
        tokens = slice(run[0].tokens.start, run[-1].tokens.stop)
        if tokens.start > done:
            parts.append(torch.zeros_like(query[:, :, done : tokens.start]))
        parts.append(read(layer, query[:, :, tokens], run))
        done = tokens.stop
    if done < count:
        parts.append(torch.zeros_like(query[:, :, done:]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _runs(rows: Sequence[Rows]) -> Iterator[list[Rows]]:
    """Yield rows that are read together: each alone, but for those that rank one set jointly."""
    run: list[Rows] = []
    for each in rows:
        if run and not (_joint(run[0]) is not None and _joint(run[0]) is _joint(each)):
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def _joint(rows: Rows) -> SpanSet | None:
    """Return the set that rows rank jointly, or None."""
    sets = (each.spans for each in rows.sights if isinstance(each, Ranked) and each.own is not None)
    return next(sets, None)


def ranked(rows: Rows) -> Ranked:
    """Return the set that rows rank."""
    return next(sight for sight in rows.sights if isinstance(sight, Ranked))


def whole_set(rows: Sequence[Rows]) -> bool:
    """Return whether these are a whole set's spans, ranked once each, beside what all see whole."""
    spans = ranked(rows[0]).spans
    whole = all(
        sight.fixed and sight.visible is everything
        for each in rows
        for sight in each.sights
        if isinstance(sight, Sight)
    )
    return (
        whole
        and [ranked(each).own for each in rows] == list(range(len(spans.pages.sizes)))
        and all(_shown(each) == _shown(rows[0]) for each in rows)
    )


def _shown(rows: Rows) -> list[tuple[Span, object]]:
    return [(sight.span, sight.start) for sight in rows.sights if isinstance(sight, Sight)]


def as_specified(layer: Layer, query: Tensor, run: Sequence[Rows]) -> Tensor:
    """Return what a run reads as the specification says: for what nobody reads often."""
    begin = run[0].tokens.start
    return TorchExecutor().read(layer, query, [each.moved(-begin) for each in run])
