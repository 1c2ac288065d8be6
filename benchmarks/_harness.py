"""What every benchmark shares: rows of figures, a table, a JSON file, side-by-side medians."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure: `ratio` = value / baseline, where there is a baseline."""

    case: str
    metric: str
    value: float
    unit: str
    baseline: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if not self.baseline else self.value / self.baseline


def arguments(
    description: str, more: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Parse `--quick` and `--json FILE`, and what a benchmark adds."""
    parser = argparse.ArgumentParser(description=description)
    if more is not None:
        more(parser)
    parser.add_argument("--quick", action="store_true", help="fewer runs, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser.parse_args()


def medians(runs: int, ways: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Run every way in turn, several times, and return each way's median of what it returns.

    The ways alternate within one run, so that a slow minute of the machine hits all alike.
    """
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            seen[name].append(way())
    return {name: statistics.median(values) for name, values in seen.items()}


def timed(work: Callable[[], object]) -> float:
    """Return how long some work takes, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def show(title: str, rows: list[Row], file: Path | None) -> None:
    """Print the rows as a table, and write them as a JSON list if a file is given."""
    table = Table(title=title)
    for column in ("case", "metric", "value", "baseline", "ratio"):
        table.add_column(column, justify="left" if column in ("case", "metric") else "right")
    for row in rows:
        baseline = "" if row.baseline is None else f"{row.baseline:.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} x"
        table.add_row(row.case, row.metric, f"{row.value:.4g} {row.unit}", baseline, ratio)
    Console().print(table)
    write(rows, file)


def write(rows: list[Row], file: Path | None) -> None:
    """Write rows as a JSON list if a file is given."""
    if file is not None:
        written = [{**asdict(row), "ratio": row.ratio} for row in rows]
        file.write_text(json.dumps(written, indent=1) + "\n")
