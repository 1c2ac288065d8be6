"""Figures of items with their intervals, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from portia.intervals import COVERED, DRAWS, Interval, Rate, resample

UNIT = 1000  # of a figure are counted as one, so that sums are exact
WIDE = 240  # characters: a pipe has no width
Figure = tuple[float, float, float]  # value, and its interval


def ratio(items: Sequence[tuple[int, int]], share: bool = False) -> Figure | None:
    """Return a ratio of two sums over items, with its bootstrap interval.

    share  the items are counted in both or in the second alone: Wilson's interval instead
    """
    above, below = resample(items, 2).T
    rate = Rate.of(above, below, share=share)
    ends = rate.wilson if share else rate.bootstrap
    if rate.value is None or ends is None:
        return None
    return rate.value, *ends


def median(values: Sequence[float], seed: int = 0) -> Figure:
    """Return a median with its bootstrap interval."""
    found = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).choice(found, (DRAWS, len(found)))
    low, high = _ends(np.median(drawn, axis=1))
    return float(np.median(found)), low, high


def _ends(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - COVERED) / 2, (1 + COVERED) / 2]).tolist()
    return low, high


def told(figure: Figure | None, digits: int = 3, factor: float = 1.0, sign: str = "") -> str:
    """Write a figure as `1.234 (1.2 to 1.3)`, or nothing."""
    if figure is None:
        return ""
    value, low, high = (f"{factor * each:{sign}.{digits}f}" for each in figure)
    return f"{value} ({low} to {high})"


def table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    shown = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    Console(width=WIDE).print(shown)
