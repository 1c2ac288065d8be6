"""The pipeline knows no stage by name: what it must know, a stage declares."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server import pipeline
from server.stages import ALL, KNOWN

FILES = sorted(Path(*pipeline.__path__).glob("*.py"))
NAMES = [*KNOWN, *(each.__name__ for each in ALL)]
NAMED = re.compile(rf"(?<!itertools\.)\b({'|'.join(NAMES)})\b|server\.stages\.(?!base\b)\w+")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_stage_is_named(file: Path) -> None:
    assert NAMED.findall(file.read_text("utf-8")) == []


@pytest.mark.parametrize("planted", ["import Swap", '"pine"', "# [swap, x]", "server.stages.sets"])
def test_a_name_is_seen(planted: str) -> None:
    assert NAMED.search(planted)
    assert len(FILES) > 3
