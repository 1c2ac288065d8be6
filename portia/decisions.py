"""What a judge's preferences are worth: how often right, how honestly sure, at what cost.

Each item is labelled, and answered once or once in each order; then both answers count, each half.
Intervals are percentiles over resampled items. Neither the order of the items, nor exchanging the
candidates of each, changes a bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portia.intervals import COVERED, DRAWS, Integers, Rate, resample

BINS = 10  # of the calibration error, where there are ten answers for each
TOSS = 0.5  # what naming nobody counts for
BLOCK = 1 << 21  # weights held at once: draws are made in blocks, however long the data set

Floats = NDArray[np.float64]
Weights = NDArray[np.float64]  # how often each answer counts, [draws, answers]


@dataclass(frozen=True, slots=True, order=True)
class Answer:
    """What was preferred of one pair, asked once.

    right        None = nobody was preferred
    probability  of being right, as the judge says; None = it says none
    calls        of the model; tokens: read and written
    """

    right: bool | None
    probability: float | None
    calls: int = 0
    tokens: int = 0

    @property
    def points(self) -> float:
        """Return 1 if right, 0 if wrong, and TOSS for nobody.

        Who must choose and is told nothing tosses a coin. To call it wrong would let a judge gain
        by naming anybody at all, which says nothing more.
        """
        return TOSS if self.right is None else float(self.right)


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy of the answers that the judge is surest of, against the share of those.

    coverage  share of all answers, rising to 1; equally probable ones are taken together
    accuracy  of these answers
    low, high ends of the 95 % interval of the accuracy at this coverage
    """

    coverage: tuple[float, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DecisionCard:
    """All figures of a judge's preferences on one data set.

    items              labelled ones that were answered
    preferred_right    accuracy at full coverage: right / answers, nobody being half a right one
    preferred_none     share of answers that prefer nobody
    coverage_area      mean of the accuracy over all coverages; None without a probability
    calibration_error  expected: mean of |accuracy - mean probability| over `bins` bins of as many
                       answers each, of those with both; what chance adds is in it, and twice in the
                       ends of its interval, so few items make it high
    brier              mean of (probability - right)^2 of these; 0.25 = always saying one half
    calls_per_right    calls / right answers; tokens alike
    bins               that the calibration error was found with
    curve              None without a probability
    """

    items: int
    preferred_right: Rate
    preferred_none: Rate
    coverage_area: Rate | None
    calibration_error: Rate | None
    brier: Rate | None
    calls_per_right: Rate
    tokens_per_right: Rate
    bins: int
    curve: Curve | None

    @classmethod
    def of(
        cls, items: Sequence[Sequence[Answer]], draws: int = DRAWS, seed: int = 0
    ) -> DecisionCard:
        """Return the figures of a data set, each item being its answers: one, or one per order."""
        right, nobody, calls, tokens, count = resample(
            [_sums(item) for item in items], 5, draws, seed
        ).T
        sure = _Sure(items)
        found = _Draws(sure, draws, seed) if sure.told else None
        return cls(
            items=len(items),
            preferred_right=Rate.of(2 * right + nobody, 2 * count, share=False),
            preferred_none=Rate.of(nobody, count, share=False),
            coverage_area=_rate(found.area) if found else None,
            calibration_error=_rate(found.error) if found else None,
            brier=_rate(found.brier) if found else None,
            calls_per_right=Rate.of(calls, right, share=False),
            tokens_per_right=Rate.of(tokens, right, share=False),
            bins=sure.bins,
            curve=found.curve() if found else None,
        )

    def wire(self) -> dict[str, Any]:
        """Return what JSON can carry."""
        return asdict(self)


def _sums(item: Sequence[Answer]) -> tuple[int, ...]:
    """Return right ones, nobodies, calls, tokens and answers, each item being of two answers."""
    each = 2 // len(item)
    right = sum(answer.right is True for answer in item)
    nobody = sum(answer.right is None for answer in item)
    calls, tokens = (sum(getattr(answer, name) for answer in item) for name in ("calls", "tokens"))
    return each * right, each * nobody, each * calls, each * tokens, 2


class _Sure:
    """The answers of a data set in the order of how sure the judge is, equal items being one kind.

    kinds    numbers of equal items, [kinds]
    item     kind of each answer, [answers], the surest first
    weight   of an answer in its item: one half where there are two
    step     number of the group of equally probable answers; the last are those without a
             preference or a probability
    points, probability, right   of each; told = it has a preference and a probability
    bin      of the calibration error; -1 = of none
    """

    def __init__(self, items: Sequence[Sequence[Answer]]) -> None:
        counted = Counter(tuple(sorted(item, key=_key)) for item in items)
        kinds = sorted(counted, key=lambda item: [_key(answer) for answer in item])
        self.kinds = np.array([counted[kind] for kind in kinds])
        rows = [
            (answer, place, 1 / len(kind)) for place, kind in enumerate(kinds) for answer in kind
        ]
        rows.sort(key=lambda row: _key(row[0]))  # stable: the kinds of equals stay in order
        said = [_sureness(answer) for answer, _, _ in rows]
        self.item = np.array([place for _, place, _ in rows], dtype=np.int64)
        self.weight = np.array([weight for _, _, weight in rows])
        self.step = np.cumsum(
            [place > 0 and each != said[place - 1] for place, each in enumerate(said)]
        )
        self.points = np.array([answer.points for answer, _, _ in rows])
        self.right = np.array([answer.right is True for answer, _, _ in rows], dtype=float)
        self.probability = np.array([max(each, 0.0) for each in said])
        has = np.array([each >= 0 for each in said], dtype=bool)
        self.told = bool(has.any())
        self.bins, self.bin = self._cut(has)

    def _cut(self, has: NDArray[np.bool_]) -> tuple[int, Integers]:
        """Cut the answers that count into bins of equal mass; equals stay together."""
        if not has.any():
            return 0, np.full(len(has), -1)
        mass = np.where(has, self.weight * self.kinds[self.item], 0.0)
        bins = max(1, min(BINS, int(mass.sum()) // BINS))
        of_step = np.bincount(self.step, mass)
        middle = np.cumsum(of_step) - of_step / 2
        place = np.minimum((middle / mass.sum() * bins).astype(np.int64), bins - 1)[self.step]
        return len(np.unique(place[has])), np.where(has, place, -1)


def _sureness(answer: Answer) -> float:
    """Return the probability of the preferred, -1 for less than any."""
    return -1.0 if answer.right is None or answer.probability is None else answer.probability


def _key(answer: Answer) -> tuple[float, ...]:
    """Return what answers are sorted by: the surest first, then anything that tells them apart."""
    said = -1.0 if answer.probability is None else answer.probability
    return -_sureness(answer), answer.points, said, answer.calls, answer.tokens


class _Draws:
    """The figures that need the answers in order, for the data set and each resampled one.

    area, error, brier  [1 + draws], NaN where there is nothing to divide by
    at                  accuracy at the end of each step, [1 + draws, steps]
    """

    def __init__(self, sure: _Sure, draws: int, seed: int) -> None:
        self.sure = sure
        self.starts = np.flatnonzero(np.diff(sure.step, prepend=-1))
        found = [self._figures(weights) for weights in _weights(sure, draws, seed)]
        self.area, self.error, self.brier = (
            np.concatenate([block[place] for block in found]) for place in range(3)
        )
        self.at: Floats = np.concatenate([block[3] for block in found])

    def curve(self) -> Curve:
        """Return the curve of the data set with the interval at each coverage."""
        sure = self.sure
        mass = np.add.reduceat(sure.weight * sure.kinds[sure.item], self.starts)
        ends = [(1 - COVERED) / 2, (1 + COVERED) / 2]
        low, high = np.nanquantile(self.at[1:], ends, axis=0)
        coverage = np.cumsum(mass) / mass.sum()
        coverage[-1] = 1.0
        lines = (coverage, self.at[0], low, high)
        return Curve(*(tuple(map(float, line)) for line in lines))

    def _figures(self, weights: Weights) -> tuple[Floats, Floats, Floats, Floats]:
        sure, starts = self.sure, self.starts
        covered = np.add.reduceat(weights, starts, axis=1).cumsum(axis=1)
        won = np.add.reduceat(weights * sure.points, starts, axis=1).cumsum(axis=1)
        area = _area(covered, won)
        miss, total = np.zeros(len(weights)), np.zeros(len(weights))
        square = np.zeros(len(weights))
        off = sure.right - sure.probability
        for number in np.unique(sure.bin[sure.bin >= 0]):
            inside = sure.bin == number
            miss += np.abs(weights[:, inside] @ off[inside])
            square += weights[:, inside] @ off[inside] ** 2
            total += weights[:, inside].sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return area, miss / total, square / total, won / covered


def _area(covered: Floats, won: Floats) -> Floats:
    """Return the mean over coverages of the accuracy of what is covered, [draws].

    Between the ends of two steps, of equally probable answers, `won` is a line in `covered`:
    `won(c) / c = s + (won0 - s c0) / c`, whose integral from c0 to c is
    `s (c - c0) + (won0 - s c0) ln(c / c0)`: no order within a step has to be made up.
    """
    before, had = np.zeros_like(covered), np.zeros_like(won)
    before[:, 1:], had[:, 1:] = covered[:, :-1], won[:, :-1]
    width = covered - before
    slope = np.divide(won - had, width, out=np.zeros_like(width), where=width > 0)
    inside = (before > 0) & (width > 0)
    grown = np.log(np.divide(covered, before, out=np.ones_like(width), where=inside))
    area: Floats = (slope * width + (had - slope * before) * grown).sum(axis=1) / covered[:, -1]
    return area


def _weights(sure: _Sure, draws: int, seed: int) -> Iterator[Weights]:
    """Yield how often each answer counts: in the data set, then in blocks of resampled ones."""
    count = int(sure.kinds.sum())
    yield sure.kinds[None, sure.item] * sure.weight
    random = np.random.default_rng(seed)
    most = max(1, BLOCK // len(sure.item))
    for begun in range(0, draws, most):
        size = min(most, draws - begun)
        drawn = random.multinomial(count, sure.kinds / count, size=size)
        yield drawn[:, sure.item] * sure.weight


def _rate(values: Floats) -> Rate:
    """Return a figure of the data set, first, with the interval of those of the resampled ones."""
    drawn = values[1:][np.isfinite(values[1:])]
    ends = (
        np.quantile(drawn, [(1 - COVERED) / 2, (1 + COVERED) / 2]).tolist() if len(drawn) else None
    )
    value = float(values[0]) if np.isfinite(values[0]) else None
    return Rate(value, None, (ends[0], ends[1]) if ends else None)
