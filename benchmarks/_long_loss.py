"""The loss of each token of a long text, by where it stands, however it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import exp

from benchmarks._figures import UNIT, Figure, ratio, table, told
from benchmarks._harness import Row
from benchmarks._loaded import Model
from benchmarks._long_ways import Way, losses

Losses = Mapping[Way, Sequence[Sequence[int]]]  # by text and token, thousandths of a nat


def by_position(model: Model, way: Way, ids: Sequence[int], stride: int) -> list[int]:
    """Return the loss of every token but the first, in thousandths of a nat.

    stride  tokens for which a window is read again at once: each of them sees the window but for
            less than so many tokens
    """
    if way.kind != "again":
        found = losses(model, way.reading(), ids, None)
    else:
        found = losses(model, way.reading(), ids[: way.window + 1], None)
        for begin in range(way.window + 1, len(ids), stride):
            end = min(begin + stride, len(ids))
            window = ids[end - 1 - way.window : end - 1]
            found += losses(model, way.reading(), window, ids[end - 1])[begin - end :]
    return [round(UNIT * each) for each in found]


def show(title: str, found: Losses, bands: Sequence[int], perplexity: bool) -> list[Row]:
    """Print the losses in bands of positions, and what ways lose beside others; return them.

    perplexity  print that, and ratios of it, instead of nats and differences
    """
    several = list(pairwise(bands))
    names = [f"{low:,} to {high:,}" for low, high in several]
    what, beside, digits = "loss in nats", "differences in nats", 3
    if perplexity:
        what, beside, digits = "perplexity", "ratios of perplexities", 2
    alone = {str(way): [_mean(found, way, None, band) for band in several] for way in found}
    pairs = {
        f"{way} {'/' if perplexity else '-'} {base}": [
            _mean(found, way, base, band) for band in several
        ]
        for way in found
        for base in found
        if _beside(way, base)
    }
    if perplexity:
        alone = {name: list(map(_exp, figures)) for name, figures in alone.items()}
        pairs = {name: list(map(_exp, figures)) for name, figures in pairs.items()}
    count = len(next(iter(found.values())))
    _print(f"{title}: {what}, {count} texts", names, alone, digits, "")
    _print(f"{title}: paired {beside}", names, pairs, 3, "" if perplexity else "+")
    return [
        Row(f"{title}, {band}", name, figure[0], what if name in alone else beside)
        for name, figures in (alone | pairs).items()
        for band, figure in zip(names, figures, strict=True)
        if figure is not None
    ]


def _print(
    title: str,
    bands: Sequence[str],
    rows: Mapping[str, Sequence[Figure | None]],
    digits: int,
    sign: str,
) -> None:
    cells = (
        (name, *(told(each, digits, sign=sign) for each in figures))
        for name, figures in rows.items()
    )
    table(title, ("", *bands), cells)


def _beside(way: Way, base: Way) -> bool:
    """Return whether a way is told beside another: beside plain, or LM-Infinite's same window."""
    if way == base:
        return False
    return base.kind == "plain" or (base.kind == "lambda" and base.window == way.window)


def _mean(found: Losses, way: Way, base: Way | None, band: tuple[int, int]) -> Figure | None:
    """Return a way's mean loss in a band, less another's, nats."""
    items = []
    for number, each in enumerate(found[way]):
        part = each[slice(*band)]
        less = 0 if base is None else sum(found[base][number][slice(*band)])
        items.append((sum(part) - less, UNIT * len(part)))
    return ratio(items)


def _exp(figure: Figure | None) -> Figure | None:
    if figure is None:
        return None
    value, low, high = map(exp, figure)
    return value, low, high
