"""A small folder of the data that a study reads, laid out as they are published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from trials.evidence.questions import PAIRS, PASSAGES
from trials.evidence.study import SETS

LONG = "It is so. It was so before. It will be so again."


def lay_out(folder: Path) -> None:
    """Write a few pairs for every set, and a few questions among documents."""
    for path in SETS.values():
        rows = [
            {"input": f"Q{n}?", "output_1": f"a{n}", "output_2": f"bb{n}", "label": 1 + n % 2}
            for n in range(3)
        ]
        rows.append({"input": "Q?", "output_1": LONG, "output_2": LONG + " Yes.", "label": 1})
        _written(folder / path / "dataset.json", json.dumps(rows))
    passages: list[dict[str, Any]] = [
        {
            "question": f"who is number {n}",
            "answers": [f"Name {n}x"],
            "ctxs": [{"title": f"Number {n}", "text": f"This is Name {n}x."}],
        }
        for n in range(8)
    ]
    pairs = [[f"key{n}", f"value{n}x"] for n in range(30)]
    keys = [{"ordered_kv_records": pairs, "key": one, "value": other} for one, other in pairs]
    for name, found in ((PASSAGES, passages), (PAIRS, keys)):
        lines = "".join(json.dumps(row) + "\n" for row in found)
        _written(folder / "lost-in-the-middle" / name, gzip.compress(lines.encode()))


def _written(file: Path, data: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.encode() if isinstance(data, str) else data)
