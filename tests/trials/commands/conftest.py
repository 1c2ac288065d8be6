"""The command line on a scripted engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asking import Command
from typer.testing import CliRunner, Result

from server.engines import registry
from server.engines.scripted import Scripted, slot_lover
from server.settings import Settings
from trials import cli


@pytest.fixture
def engine() -> Scripted:
    """Return a judge that takes the first slot."""
    return Scripted(slot_lover(), refusals={"attention": "it is a script"})


@pytest.fixture
def command(engine: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Return what runs a command in a folder of its own; it loads the scripted engine."""

    def load(settings: Settings) -> Scripted:
        return engine

    monkeypatch.setattr(registry, "load", load)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.app, arguments)

    return run


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Return a file of five pairs in LLMBar's format."""
    rows = [
        {"input": f"q{n}", "output_1": f"a{n}", "output_2": f"b{n}", "label": 1 + n % 2}
        for n in range(5)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    return tmp_path / "pairs.json"
