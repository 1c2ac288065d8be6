"""A report card on a terminal: one column per way to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from portia.comparison import Comparison
from trials.report.comparing import DIFFERENCE, difference
from trials.report.figures import Report
from trials.report.rows import ROWS

MOST_TIES = 0.5  # of the calls, beyond which T is a habit


def tables(reports: Sequence[Report], title: str, width: int) -> list[Table]:
    """Return the figures side by side, in as few tables as a terminal so wide can show."""
    made: list[Table] = []
    for parts in range(1, len(reports) + 1):
        size = -(-len(reports) // parts)  # as many in each, rounded up
        made = [
            table(reports[begun : begun + size], title if not begun else f"{title}, continued")
            for begun in range(0, len(reports), size)
        ]
        if all(_width(each) <= width for each in made):
            break
    return made


def _width(made: Table) -> int:
    """Return how many columns a table takes where nothing has to be folded."""
    wide = Console(width=1000)
    return Measurement.get(wide, wide.options, made).maximum


def table(reports: Sequence[Report], title: str) -> Table:
    """Return the figures side by side, each over its interval; five methods fit 80 columns."""
    made = Table(
        title=title,
        title_justify="left",
        caption="below a figure: its 95 % bootstrap interval",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    made.add_column("", no_wrap=True)
    for report in reports:
        made.add_column(report.name, justify="right", overflow="fold")
    for row in ROWS:
        cells = [row.written(report) for report in reports]
        if any(figure != "-" for figure, _ in cells):
            made.add_row(row.title, *(_cell(*cell) for cell in cells))
    _add_counts(made, "statuses", [report.statuses for report in reports])
    _add_counts(made, "settled by", [report.rungs for report in reports])
    return made


def differences(comparison: Comparison) -> Table:
    """Return how much less accurate than the best the others are."""
    made = Table(
        title=f"{comparison.best}, {comparison.cost:.0f} tokens an item, and the others",
        title_justify="left",
        caption="paired: the same items, resampled together",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    made.add_column("", no_wrap=True)
    for title in DIFFERENCE:
        made.add_column(title, justify="right", overflow="fold")
    for each in comparison.others:
        made.add_row(each.other, *difference(each))
    return made


def _cell(figure: str, interval: str) -> Text:
    shown = Text(figure)
    return shown.append(f"\n{interval}", style="dim") if interval else shown


def _add_counts(made: Table, title: str, counts: Sequence[Mapping[str, int]]) -> None:
    """Add a line per name that any report counts."""
    made.add_section()
    made.add_row(title)
    for name in dict.fromkeys(name for each in counts for name in each):
        made.add_row(f"  {name}", *(str(each.get(name, "")) for each in counts))


def remarks(reports: Sequence[Report]) -> list[str]:
    """Return what the table cannot show: what could not run or be judged, or is nearly all ties."""
    said = []
    for report in reports:
        if report.reason is not None:
            said.append(f"{report.name} could not run: {report.reason}")
        if report.impossible:
            said.append(
                f"{report.name}: {report.impossible} of {report.items} items cannot be judged: "
                f"{report.error}"
            )
        if report.missing:
            said.append(f"{report.name}: {report.missing} items are missing: {report.failure}")
        if report.tied is not None and report.tied > MOST_TIES:
            said.append(
                f"{report.name}: T is the label of {report.tied:.0%} of the calls, which is a "
                "habit rather than a judgement; ask with --ties forbid, or with --tie-margin"
            )
    return said
