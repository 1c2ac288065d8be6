"""PORTIA's cuts: milliseconds per pair of answers, splitting included, on one core."""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there portia.py would hide the package `portia`

import argparse
import json
import random
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks._harness import Row, show, timed
from portia.align import MOST_UNITS, align
from portia.split import units

DATA = Path(__file__).parents[2] / "shared/data/LLMBar"
PARTS = 3
QUANTILES = {"p50": 0.5, "p95": 0.95, "max": 1.0}
SEED = 7

Pairs = list[tuple[str, str]]


def recorded(folder: Path) -> dict[str, Pairs]:
    """Return the pairs of answers of each data set below a folder in LLMBar's layout."""
    return {
        str(file.parent.relative_to(folder)): [
            (row["output_1"], row["output_2"]) for row in json.loads(file.read_text())
        ]
        for file in sorted(folder.glob("**/dataset.json"))
    }


def synthetic(quick: bool) -> dict[str, Pairs]:
    """Return made-up pairs, by the number of sentences in an answer."""
    source = random.Random(SEED)
    names = [f"word{number}" for number in range(500)]

    def answer(sentences: int) -> str:
        return "".join(
            " ".join(source.choices(names, k=12)).capitalize() + ". " for _ in range(sentences)
        )

    counts = (5, MOST_UNITS) if quick else (5, MOST_UNITS, 400, 2000)
    return {
        f"{count} sentences": [(answer(count), answer(count)) for _ in range(5 if quick else 20)]
        for count in counts
    }


def measure(case: str, pairs: Pairs) -> list[Row]:
    """Return how long the pairs take and how many units they have.

    The baseline is the splitting of the same pairs alone.
    """
    aligning = [1e3 * timed(partial(align, *pair, PARTS, "meaning")) for pair in pairs]
    splitting = [1e3 * timed(partial(list, map(units, pair))) for pair in pairs]
    counts = [len(units(answer)) for pair in pairs for answer in pair]
    rows = []
    for name, share in QUANTILES.items():
        whole, alone = (float(np.quantile(found, share)) for found in (aligning, splitting))
        rows.append(Row(case, f"semantic alignment, {name}", whole, "ms", alone))
        rows.append(
            Row(case, f"units per answer, {name}", float(np.quantile(counts, share)), "units")
        )
    return rows


def main() -> None:
    """Measure every data set, and all of them together."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder in LLMBar's layout")
    parser.add_argument("--quick", action="store_true", help="fewer pairs, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    sets = recorded(options.data)
    if not sets:
        print(f"no dataset.json below {options.data}: synthetic answers instead")
        sets = synthetic(options.quick)
    if options.quick:
        sets = {name: pairs[:20] for name, pairs in sets.items()}
    sets["all"] = [pair for pairs in sets.values() for pair in pairs]
    align(*sets["all"][0], PARTS, "meaning")  # warm
    rows = [row for name, pairs in sets.items() for row in measure(name, pairs)]
    show(f"PORTIA, {PARTS} parts; baseline: splitting alone", rows, options.json)


if __name__ == "__main__":
    main()
