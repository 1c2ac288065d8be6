"""Methods against each other on the same items: which to use on this data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from portia.comparison import UNIT, Comparison, Difference, Judge, compare
from trials.report.figures import Report

DIFFERENCE = ("accuracy", "the best has more by", "95 % interval", "tokens an item")


def compared(reports: Sequence[Report]) -> Comparison | None:
    """Compare what ran by whom it preferred; None where there are not two to compare.

    A method that was asked in both orders is as accurate as its two replies are on the average: a
    caller's order is like any other. One call without a stage is shown in each order alone, too.
    """
    ran = [report for report in reports if report.points]
    keys = sorted({key for report in ran for key in report.points})
    return compare([judge for report in ran for judge in _judges(report, keys)])


def _judges(report: Report, keys: Sequence[str]) -> Iterator[Judge]:
    points = [report.points.get(key) for key in keys]
    cost = report.tokens or 0.0
    # a reply has up to two points, an item up to UNIT
    scores = [None if each is None else sum(each) * UNIT // (2 * len(each)) for each in points]
    yield Judge(report.name, scores, cost)
    if report.stages or any(each is not None and len(each) < 2 for each in points):
        return
    for place in (0, 1):
        one = [None if each is None else each[place] * UNIT // 2 for each in points]
        yield Judge(f"order {place + 1}", one, cost, eligible=False)


def difference(each: Difference) -> tuple[str, str, str, str]:
    """Return a difference as the columns of DIFFERENCE."""
    accuracy, more = each.accuracy.value, each.difference.value
    assert accuracy is not None and more is not None, "items were compared"
    low, high = each.difference.bootstrap or (more, more)
    return f"{accuracy:.3f}", f"{more:+.3f}", f"{low:+.3f} {high:+.3f}", f"{each.cost:.0f}"
