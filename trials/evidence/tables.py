"""What was found, as a page of Markdown: every figure with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence

from portia.intervals import Rate
from trials.evidence.places import Way, against_plain, plain_mean
from trials.evidence.study import Found
from trials.report.comparing import DIFFERENCE, compared, difference
from trials.report.figures import Report
from trials.report.rows import ROWS, Row

SHOWN = (  # columns of a table of pairs, by the name of the figure
    "accuracy_first",
    "accuracy_second",
    "preferred_right",
    "position_consistency",
    "preference_fairness",
    "decided",
    "right",
    "calls",
    "tokens",
)


def page(found: Found) -> str:
    """Return all tables of one model, each below its heading."""
    parts = [
        *(f"### {name}\n\n{pairs(each)}{paired(each)}" for name, each in found.pairs.items()),
        *(f"### {name}\n\n{questions(ways)}" for name, ways in found.questions.items()),
    ]
    return "\n\n".join(parts)


def pairs(reports: Sequence[Report]) -> str:
    """Return a table of ways to judge: a row each."""
    columns = [row for name in SHOWN for row in ROWS if row.name == name]
    base = next((report.seconds for report in reports if report.seconds), None)
    head = ["method", "n", *(row.title for row in columns), "time"]
    return table(head, [_judged(report, columns, base) for report in reports])


def paired(reports: Sequence[Report]) -> str:
    """Return which method to use, and how far the others are from the best; "" of one method."""
    comparison = compared(reports)
    if comparison is None:
        return ""
    head = ["beside " + comparison.best, *DIFFERENCE]
    rows = [[each.other, *difference(each)] for each in comparison.others]
    return f"\n\n{comparison.advice()}\n\n{table(head, rows)}"


def _judged(report: Report, columns: Sequence[Row], base: float | None) -> list[str]:
    if report.reason is not None:
        return [report.name, "-", report.reason, *[""] * len(columns)]
    figures = [_written(*row.written(report)) for row in columns]
    return [report.name, str(report.items), *figures, _times(report.seconds, base)]


def questions(ways: Sequence[Way]) -> str:
    """Return a table of ways to read documents, the plain model's mean over places among them."""
    base = next((way.seconds for way in ways if way.seconds), None)
    rows = [_read(way, ways, base) for way in ways]
    count = sum(way.name.startswith("plain") for way in ways)
    mean = ["plain, mean of places", str(len(ways[0].right)), rated(plain_mean(ways)), "", "", ""]
    head = ["read", "n", "right", "less plain's mean", "tokens", "time"]
    return table(head, [*rows[:count], mean, *rows[count:]])


def _read(way: Way, ways: Sequence[Way], base: float | None) -> list[str]:
    if way.reason is not None:
        return [way.name, "-", way.reason, "", "", ""]
    plain = way.name.startswith("plain")
    less = "" if plain else rated(against_plain(way, ways), signed=True)
    said = [f"{way.tokens:.0f}", _times(way.seconds, base)]
    return [way.name, str(len(way.right)), rated(way.accuracy), less, *said]


def rated(rate: Rate, *, signed: bool = False) -> str:
    """Return a figure with the ends of its interval: Wilson's of a share, else the bootstrap's."""
    shape = "+.2f" if signed else ".2f"
    if rate.value is None:
        return "-"
    ends = rate.wilson or rate.bootstrap or ()
    return _written(_bare(f"{rate.value:{shape}}"), " ".join(_bare(f"{e:{shape}}") for e in ends))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _written(figure: str, ends: str) -> str:
    return f"{figure} ({ends.replace(' ', ' to ')})" if ends else figure


def _bare(number: str) -> str:
    return number.replace("0.", ".", 1)


def _times(seconds: float | None, base: float | None) -> str:
    return f"{seconds / base:.2f} x" if seconds and base else "-"
