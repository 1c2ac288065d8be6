"""`evidence` on the embedded model: pages that are written, and mistakes that are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from evidence_data import lay_out
from typer.testing import CliRunner

from pocket import WEIGHTS
from trials.cli import app


def test_a_page_is_written_and_a_run_continued(tmp_path: Path) -> None:
    lay_out(tmp_path)
    asked = ["evidence", str(WEIGHTS), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    some = [*asked, "--parts", "judge,keys", "--pairs", "2", "--questions", "2"]
    first = CliRunner().invoke(app, some)
    assert first.exit_code == 0, first.output
    told = (tmp_path / "out" / "evidence.md").read_text()
    assert "### LLMBar/LLMBar/Natural" in told and "sha256" in told
    [kept] = (tmp_path / "out").glob("*.jsonl")
    before = kept.read_bytes()
    again = CliRunner().invoke(app, some)
    assert again.exit_code == 0
    assert kept.read_bytes() == before
    assert (tmp_path / "out" / "evidence.md").read_text() == told


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--parts", "judge,poetry", "parts must be of"),
        ("--sets", "poems", "sets must be of"),
        ("--methods", "coin", "methods must be of"),
        ("--passages", "ten", "passages must be counts"),
        ("--passages", "1", "passages must be counts"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, option: str, value: str, said: str) -> None:
    lay_out(tmp_path)
    asked = ["evidence", str(WEIGHTS), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*asked, option, value])
    assert result.exit_code == 1
    assert said in result.output
