"""Which of several judges to use, by what they said of the same items.

Judges that are right on the same items differ less by chance than their own intervals let think, so
it is the differences, item by item, that are resampled (Efron and Tibshirani 1993, chapter 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from portia.intervals import DRAWS, Integers, Rate, resample

UNIT = 4  # an item's score is a whole number of quarters: two orders, and half for nobody
LEAST = 30  # items below which percentiles of resampled ones promise more than they keep


@dataclass(frozen=True, slots=True)
class Judge:
    """One way to judge, or one order of it.

    scores    per item, 0 to UNIT; None = it did not judge that item
    cost      tokens per item
    eligible  False = compared, but never the one to use
    """

    name: str
    scores: Sequence[int | None]
    cost: float
    eligible: bool = True


@dataclass(frozen=True, slots=True)
class Difference:
    """The accuracy of the best judge less another's, on the same items; eligible as its judge."""

    other: str
    accuracy: Rate
    difference: Rate
    cost: float
    eligible: bool

    @property
    def open(self) -> bool:
        """Say whether this is one that can be used and may be as accurate, by the interval."""
        return self.eligible and _may_be_none(self.difference)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a data set says of several judges.

    items     that all of them judged
    best      the most accurate of those that one can use; of equals the cheaper
    accuracy  its own
    use       the cheapest whose difference to it may be none, by the 95 % interval
    apart     True = every other that one can use is less accurate, by the interval
    others    all but the best, the most accurate first
    needed    items on which the first of the differences that may be none would show, if they stay;
              None if there is no such
    """

    items: int
    best: str
    accuracy: Rate
    cost: float
    use: str
    apart: bool
    others: tuple[Difference, ...]
    needed: int | None

    @property
    def small(self) -> bool:
        """Say whether there are too few items for any interval to be trusted."""
        return self.items < LEAST

    def wire(self) -> dict[str, Any]:
        """Return what JSON can carry."""
        return {**asdict(self), "advice": self.advice()}

    def advice(self) -> str:
        """Return which to use, in a paragraph."""
        said = f"Of {self.items} items, {self.best} is the most accurate ({_share(self.accuracy)})."
        if self.small:
            return (
                f"{said} That is too few to tell anything: judge at least {LEAST}, and as many "
                "hundreds as you can."
            )
        if self.apart:
            return f"{said} Every other is less accurate by more than chance: use {self.best}."
        if self.use == self.best:
            said += f" Nothing that costs less keeps up with it: use {self.best}."
        else:
            said += (
                f" The cheapest that may be as accurate is {self.use}, at {self._saved()}: use it, "
                "unless the difference matters to you more than the cost."
            )
        near = ", ".join(each.other for each in self.others if each.open)
        if not near:
            return said
        said += f" The sample is too small to tell {self.best} from {near}"
        if self.needed is None:
            return f"{said}."
        return f"{said}; the first of these differences would show on about {self.needed} items."

    def _saved(self) -> str:
        cost = next(each.cost for each in self.others if each.other == self.use)
        return f"{cost:.0f} tokens an item instead of {self.cost:.0f}"


def compare(judges: Sequence[Judge], draws: int = DRAWS, seed: int = 0) -> Comparison | None:
    """Compare judges on the items that all of them judged; None if there is nothing to compare.

    That the best is picked by the same items flatters it a little, and the more so the more judges
    there are: an interval that touches zero is no promise.
    """
    rows = [row for row in zip(*(each.scores for each in judges), strict=True) if None not in row]
    able = [place for place, each in enumerate(judges) if each.eligible]
    if not rows or len(able) < 2:
        return None
    sums = resample([(*row, UNIT) for row in rows], len(judges) + 1, draws, seed).T
    scores, total = sums[:-1], sums[-1]

    def order(place: int) -> tuple[float, float, str]:
        return -int(scores[place][0]), judges[place].cost, judges[place].name

    best = min(able, key=order)
    others = {
        place: Difference(
            other=judges[place].name,
            accuracy=_rate(scores[place], total),
            difference=_rate(scores[best] - scores[place], total),
            cost=judges[place].cost,
            eligible=judges[place].eligible,
        )
        for place in sorted(range(len(judges)), key=order)
        if place != best
    }
    fits = [place for place in able if place == best or others[place].open]
    undecided = [each.difference for each in others.values() if each.open]
    return Comparison(
        items=len(rows),
        best=judges[best].name,
        accuracy=_rate(scores[best], total),
        cost=judges[best].cost,
        use=judges[min(fits, key=lambda place: (judges[place].cost, order(place)))].name,
        apart=not undecided,
        others=tuple(others.values()),
        needed=_needed(len(rows), undecided),
    )


def _rate(scores: Integers, total: Integers) -> Rate:
    return Rate.of(scores, total, share=False)


def _may_be_none(difference: Rate) -> bool:
    """Say whether an interval includes zero; a difference in favour of the other does too."""
    return difference.bootstrap is None or difference.bootstrap[0] <= 0


def _needed(items: int, differences: Sequence[Rate]) -> int | None:
    """Return how many items narrow the interval of one of the differences to its value.

    An interval's width falls with the root of the number of items.
    """
    counts = [
        items * ((each.value - each.bootstrap[0]) / each.value) ** 2
        for each in differences
        if each.value and each.bootstrap
    ]
    return ceil(min(counts)) if counts else None


def _share(rate: Rate) -> str:
    assert rate.value is not None and rate.bootstrap is not None, "there are items"
    low, high = rate.bootstrap
    return f"{rate.value:.3f}, 95 % interval {low:.2f} to {high:.2f}"
