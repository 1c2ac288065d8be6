"""Figures with intervals: Wilson's for shares, the bootstrap for every ratio of sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
COVERED = 0.95

Interval = tuple[float, float]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rate:
    """A figure with its 95 % intervals; None where there is nothing to divide by.

    wilson     of a share of items; good near 0 and 1 too
    bootstrap  percentiles over resampled items
    """

    value: float | None
    wilson: Interval | None
    bootstrap: Interval | None

    @classmethod
    def of(cls, numerators: Integers, denominators: Integers, *, share: bool = True) -> Rate:
        """Return a ratio of two sums, [1 + draws] each, as `resample` gives them.

        share  False = the items counted below are not each counted above or not: no Wilson interval
        """
        count, total = int(numerators[0]), int(denominators[0])
        return cls(
            count / total if total else None,
            wilson(count, total) if share else None,
            bootstrap(numerators[1:], denominators[1:]),
        )


def wilson(count: int, total: int, covered: float = COVERED) -> Interval | None:
    """Return the interval of a share (Wilson 1927), or None of nothing."""
    if total == 0:
        return None
    share, z = count / total, NormalDist().inv_cdf((1 + covered) / 2)
    shrink = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    reach = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / shrink
    return max(0.0, centre - reach), min(1.0, centre + reach)


def bootstrap(
    numerators: Integers, denominators: Integers, covered: float = COVERED
) -> Interval | None:
    """Return the percentile interval of a ratio over the draws that have one, [draws] each."""
    possible = denominators > 0
    if not possible.any():
        return None
    ratios = numerators[possible] / denominators[possible]
    low, high = np.quantile(ratios, [(1 - covered) / 2, (1 + covered) / 2]).tolist()
    return low, high


def resample(
    items: Sequence[tuple[int, ...]], columns: int, draws: int = DRAWS, seed: int = 0
) -> Integers:
    """Return the sums of the items' columns, then those of as many items drawn with replacement.

    Equal items are drawn together (a multinomial), so their order changes no bit.
    items    one tuple of columns each
    returns  [1 + draws, columns]
    """
    if not items:
        return np.zeros((1 + draws, columns), dtype=np.int64)
    kinds, counts = zip(*sorted(Counter(items).items()), strict=True)
    found = np.array(counts)
    drawn = np.random.default_rng(seed).multinomial(len(items), found / len(items), size=draws)
    table: Integers = np.vstack([found, drawn]) @ np.array(kinds, dtype=np.int64)
    return table
