"""A report card on a terminal: one column per way to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from trials.report.figures import Report
from trials.report.rows import ROWS


def table(reports: Sequence[Report], title: str) -> Table:
    """Return the figures side by side, each over its interval; five methods fit 80 columns."""
    made = Table(
        title=title,
        title_justify="left",
        caption="below a figure: the ends of its 95 % bootstrap interval",
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
    """Return what the table cannot show: what could not run, or not be judged."""
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
    return said
