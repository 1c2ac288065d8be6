"""The plots of the page: SVG whose colours are the page's, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from portia.intervals import Rate
from server.errors import PlanError
from trials.report.figures import Report
from trials.report.rows import ACCURACIES, AREA, COSTS, PC, PF, PREFERRED, RIGHT, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Drawn in colours that nothing else has, which are then replaced by the page's variables.
COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "#010203": "var(--ink)",
        "#010204": "var(--muted)",
        "#010205": "var(--line)",
        "#010206": "var(--one)",
        "#010207": "var(--two)",
        "#010208": "var(--three)",
        "#010209": "var(--four)",
    }
)
INK, MUTED, LINE, ONE, TWO, THREE, FOUR = COLOURS
KINDS = (
    ("first slot", "primacy", TWO),
    ("same candidate", "consistent", ONE),
    ("second slot", "recency", THREE),
    ("not read", "unparsed", FOUR),
)
WIDTH = 8.6  # inches
PANELS = 4  # curves side by side
LEAST_COVERED = 0.05  # of the pairs: of fewer the curve is noise


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its title and the sentence that stands for it where it cannot be seen."""

    title: str
    text: str
    svg: str


def check() -> None:
    """Refuse a page where it cannot be drawn, before anything runs (PlanError)."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise PlanError(
            "an HTML report must be drawn by matplotlib, got none; "
            "install it with `pip install 'evenhand[report]'`"
        ) from None


def plots(reports: Sequence[Report]) -> list[Plot]:
    """Return the plots of what ran."""
    ran = [report for report in reports if report.reason is None]
    carded = [report for report in ran if report.card is not None]
    made = []
    if carded:
        made.append(_plot("First slot, second slot, or the same candidate", _choices, carded))
        made.append(_plot("Consistent, fair, right", _rates, carded))
    sure = [report for report in ran if report.decisions and report.decisions.curve]
    if sure:
        made.append(_plot("Right, of the pairs that the judge is surest of", _curves, sure))
    made.append(_plot("What a verdict costs", _costs, ran))
    return made


def _plot(
    title: str, draw: Callable[[Figure, Sequence[Report]], str], reports: Sequence[Report]
) -> Plot:
    """Draw one plot, whose ids inside the page are its own."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": title,
            "text.color": INK,
            "ytick.color": INK,
            "xtick.color": MUTED,
            "axes.edgecolor": LINE,
        }
    ):
        figure = Figure(figsize=(WIDTH, 0.95 + 0.5 * len(reports)), layout="constrained")
        text = draw(figure, reports)
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    return Plot(title, text, _inline(written.getvalue()))


def _inline(svg: str) -> str:
    """Return the drawing alone, in the page's colours, with no id but those it refers to."""
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    needed = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in needed else "", svg)
    _, _, inner = svg.partition("<svg ")
    return "<svg aria-hidden='true' " + inner


def _axes(figure: Figure, names: Sequence[str], titles: Sequence[str]) -> Sequence[Axes]:
    """Return panels side by side, one line per name from the top."""
    panels: Sequence[Axes] = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10, color=MUTED)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(axis="x", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return panels


def _choices(figure: Figure, reports: Sequence[Report]) -> str:
    """Draw the kinds of pairs as shares of a bar."""
    names = [report.name for report in reports]
    [axes] = _axes(figure, names, ["share of pairs, by what two orders preferred"])
    said: dict[str, list[str]] = {name: [] for name in names}
    begun = [0.0 for _ in reports]
    for title, kind, colour in KINDS:
        shares = [_share(report, kind) for report in reports]
        if any(shares):
            axes.barh(range(len(names)), shares, left=begun, color=colour, height=0.62, label=title)
        begun = [start + share for start, share in zip(begun, shares, strict=True)]
        for name, share in zip(names, shares, strict=True):
            said[name].append(f"{title} {share:.0%}")
    axes.set_xlim(0, 1)
    figure.legend(loc="outside lower center", ncols=len(KINDS), frameon=False)
    return "; ".join(f"{name}: {', '.join(shares)}" for name, shares in said.items())


def _share(report: Report, kind: str) -> float:
    assert report.card is not None
    card = report.card
    counts = {name: float(getattr(card, name)) for _, name, _ in KINDS if name != "unparsed"}
    counts["unparsed"] = card.items - sum(counts.values())
    return counts[kind] / card.items


def _rates(figure: Figure, reports: Sequence[Report]) -> str:
    """Draw three figures with their intervals."""
    order_1, order_2, mean, _ = ACCURACIES
    names = [report.name for report in reports]
    panels = _axes(figure, names, ["position consistency", "preference fairness", "accuracy"])
    for row, axes in zip((PC, PF), panels, strict=False):
        _points(axes, row, reports, ONE)
    for step, row, colour in ((-0.22, order_1, TWO), (0, order_2, THREE), (0.22, RIGHT, ONE)):
        _points(panels[2], row, reports, colour, step, row.title.removeprefix("accuracy, "))
    for axes, ticks in zip(panels, ((0, 0.5, 1), (-1, 0, 1), (0, 0.5, 1)), strict=True):
        axes.set_xlim(ticks[0] - 0.05 * (1 - ticks[0]), 1 + 0.05 * (1 - ticks[0]))
        axes.set_xticks(ticks)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    rows = (PC, PF, order_1, order_2, mean, RIGHT)
    return "; ".join(_spoken(report, rows) for report in reports)


def _points(
    axes: Axes,
    row: Row,
    reports: Sequence[Report],
    colour: str,
    step: float = 0,
    label: str | None = None,
) -> None:
    """Draw a figure of each report with its interval; one that has none leaves its line empty.

    step  below the report's line, in lines
    """
    for line, report in enumerate(reports):
        figure = row.figure(report)
        if not isinstance(figure, Rate) or figure.value is None:
            continue
        height = line + step
        low, high = figure.bootstrap or (figure.value, figure.value)
        axes.plot([low, high], [height, height], color=colour, linewidth=2, alpha=0.5)
        axes.plot([figure.value], [height], "o", color=colour, markersize=6, label=label)
        label = None  # one entry in the legend


def _curves(figure: Figure, reports: Sequence[Report]) -> str:
    """Draw accuracy against coverage, a panel per method over the others' lines, paler."""
    columns = min(PANELS, len(reports))
    rows = -(-len(reports) // columns)
    figure.set_size_inches(WIDTH, 0.6 + 2.1 * rows)
    panels = [*figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat]
    for axes in panels:
        axes.set_visible(False)
    for axes, report in zip(panels, reports, strict=False):
        axes.set_visible(True)
        _frame(axes, report.name)
        for other in reports:
            if other is not report:
                axes.plot(*_line(other)[:2], color=LINE, linewidth=1, zorder=1)
        coverage, accuracy, low, high = _line(report)
        axes.fill_between(coverage, low, high, color=ONE, alpha=0.15, linewidth=0)
        axes.plot(coverage, accuracy, color=ONE, linewidth=1.8)
    figure.supxlabel("share of the pairs that are answered, the surest first", fontsize=10)
    figure.supylabel("right", fontsize=10)
    return "; ".join(_spoken(report, (AREA, PREFERRED)) for report in reports)


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelbottom=True, labelcolor=MUTED)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])


def _line(report: Report) -> tuple[Sequence[float], ...]:
    """Return coverage, accuracy and the ends of its interval, where enough is covered to tell."""
    assert report.decisions is not None and report.decisions.curve is not None
    curve = report.decisions.curve
    begun = next(place for place, share in enumerate(curve.coverage) if share >= LEAST_COVERED)
    lines = (curve.coverage, curve.accuracy, curve.low, curve.high)
    return tuple(line[begun:] for line in lines)


def _costs(figure: Figure, reports: Sequence[Report]) -> str:
    """Draw calls, tokens and seconds per verdict."""
    names = [report.name for report in reports]
    for row, axes in zip(COSTS, _axes(figure, names, [row.title for row in COSTS]), strict=True):
        figures = [row.figure(report) for report in reports]
        values = [figure if isinstance(figure, int | float) else 0.0 for figure in figures]
        bars = axes.barh(range(len(names)), values, color=ONE, height=0.5)
        labels = [row.written(report)[0] for report in reports]
        axes.bar_label(bars, labels, padding=4, color=INK, fontsize=9)
        axes.set_xlim(0, max(1e-9, *values) * 1.25)
        axes.set_xticks([])
    return "; ".join(_spoken(report, COSTS) for report in reports)


def _spoken(report: Report, rows: Sequence[Row]) -> str:
    return f"{report.name}: " + ", ".join(f"{row.title} {row.written(report)[0]}" for row in rows)
