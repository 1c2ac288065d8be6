"""A report card as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from portia.comparison import Comparison
from trials.report.comparing import DIFFERENCE, difference
from trials.report.figures import Report
from trials.report.plots import plots
from trials.report.rows import ROWS
from trials.report.terminal import remarks


def page(
    reports: Sequence[Report],
    title: str,
    facts: Mapping[str, object],
    comparison: Comparison | None = None,
) -> str:
    """Return the page.

    facts  what it was measured with, by name, for the line below the title
    """
    folder = FileSystemLoader(Path(__file__).parent)
    template = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("page.html")
    shown = [report for report in reports if report.reason is None]
    rows = [row for row in ROWS if any(row.written(report)[0] != "-" for report in shown)]
    return template.render(
        title=title,
        facts=facts,
        reports=shown,
        rows=rows,
        plots=plots(reports) if shown else [],
        remarks=remarks(reports),
        comparison=comparison,
        columns=DIFFERENCE,
        difference=difference,
    )
