"""The lines of a report card, wherever it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from portia.intervals import Rate
from trials.report.figures import Report

Figure = Rate | float | int | None
Unit = Literal["share", "signed", "count", "mean", "ratio", "seconds"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the card: what it is called, what it means, and where it is found."""

    title: str
    meaning: str
    name: str
    unit: Unit = "share"

    def figure(self, report: Report) -> Figure:
        """Return a report's figure, its own or that of its cards; None where it has none."""
        for source in (report, report.card, report.decisions):
            if hasattr(source, self.name):
                return getattr(source, self.name)  # type: ignore[no-any-return]
        return None

    def written(self, report: Report) -> tuple[str, str]:
        """Return the figure and the ends of its 95 % bootstrap interval, "-" and "" for none."""
        figure = self.figure(report)
        if isinstance(figure, Rate):
            ends = [self._number(end, self._short) for end in figure.bootstrap or ()]
            return "-" if figure.value is None else self._number(figure.value), " ".join(ends)
        return "-" if figure is None else self._number(figure), ""

    @property
    def _short(self) -> int:
        """Return how many digits after the point an end of an interval has."""
        return 1 if self.unit == "ratio" else 2

    def _number(self, value: float, digits: int = 3) -> str:
        shapes = {
            "share": f".{digits}f",
            "signed": f"+.{digits}f",
            "count": ".0f",
            "mean": ".1f",
            "ratio": f".{min(digits, 2)}f",
            "seconds": ".3f",
        }
        text = f"{value:{shapes[self.unit]}}"
        if digits < 3:  # as wide as .85
            text = text.replace("1.00", "1.0")
        return text.replace("0.", ".", 1) if self.unit in ("share", "signed") else text


PC = Row(
    "consistency, PC",
    "position consistency: pairs with the same choice in both orders, of those read",
    "position_consistency",
)
PF = Row(
    "fairness, PF",
    "preference fairness: -1 = always the first slot, +1 = the second, 0 = neither preferred",
    "preference_fairness",
    "signed",
)
ACCURACIES = (
    Row("accuracy, order 1", "right choices, in the order of the data", "accuracy_first"),
    Row("accuracy, order 2", "right choices, the two exchanged", "accuracy_second"),
    Row("accuracy, mean", "right choices, of both orders", "accuracy"),
    Row(
        "accuracy, agreed",
        "right choices, of the pairs whose choice was the same in both orders",
        "accuracy_when_consistent",
    ),
)
UNPARSED = Row("unparsed", "pairs with a choice that could not be read", "unparsed")
DECIDED = Row("verdict given", "replies that name a winner", "decided")
RIGHT = Row("verdict right", "right ones, of the replies that name a winner", "right")
PREFERRED = Row(
    "preferred right",
    "replies that prefer the right candidate, of all on labelled pairs; nobody is half a right one",
    "preferred_right",
)
NOBODY = Row("preferred nobody", "replies that prefer neither candidate", "preferred_none")
AREA = Row(
    "coverage, area",
    "accuracy of preferred, the surest first: the mean over all shares of the pairs",
    "coverage_area",
)
ECE = Row(
    "calibration, ECE",
    "mean distance of probability from accuracy, in bins of as many replies; chance adds to it",
    "calibration_error",
)
BRIER = Row("Brier score", "squared error of probability; always one half would have .250", "brier")
WORTH = (
    Row("calls per right", "of the model, per right preferred", "calls_per_right", "ratio"),
    Row("tokens per right", "read and written, per right preferred", "tokens_per_right", "count"),
)
COSTS = (
    Row("calls", "of the model, per verdict", "calls", "mean"),
    Row("tokens", "read and written, per verdict", "tokens", "mean"),
    Row("seconds", "per verdict", "seconds", "seconds"),
)
ITEMS = Row("items", "in the record", "items", "count")
VERDICTS = (DECIDED, RIGHT)
PREFERENCES = (PREFERRED, NOBODY, AREA, ECE, BRIER)
ROWS = (ITEMS, PC, PF, *ACCURACIES, UNPARSED, *VERDICTS, *PREFERENCES, *WORTH, *COSTS)
