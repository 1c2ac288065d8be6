"""`evenhand judge-bias`: methods side by side, each with its reason if it cannot run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from asking import Command

from server.engines.scripted import Answer, Scripted
from server.errors import EngineError
from server.job import Sampling


def test_methods_are_measured_side_by_side(command: Command, pairs: Path, engine: Scripted) -> None:
    files = ("--html", "r.html", "--json", "r.json")
    done = command("judge-bias", str(pairs), "--methods", "none,swap,pine", *files)
    assert done.exit_code == 0, done.output
    assert re.search(r"consistency, PC +\.000 +\.000 +-", done.stdout)
    assert "pine could not run: item '0': stage 'pine' must have an engine" in done.stderr
    assert "(it is a script)" in done.stderr
    found = json.loads(Path("r.json").read_text())
    none, swap, pine = found["methods"]
    assert none["card"]["preference_fairness"]["value"] == -1
    assert (none["calls"], swap["calls"]) == (1, 2)
    assert none["card"]["accuracy_first"]["value"] == 0.6
    assert none["card"]["accuracy_second"]["value"] == 0.4
    assert none["card"]["position_consistency"]["bootstrap"] == [0, 0]
    assert pine["reason"].startswith("item '0': stage 'pine'") and pine["card"] is None
    assert (found["data"], found["items"], found["model"]) == (str(pairs), 5, "scripted")
    assert "it is a script" in Path("r.html").read_text()
    assert len(engine.works) == 5 * 2 + 5 * 2


def test_a_folder_of_records_is_continued(command: Command, pairs: Path, engine: Scripted) -> None:
    options = ("--methods", "none,swap", "--out", "records")
    assert command("judge-bias", str(pairs), *options, "--limit", "2").exit_code == 0
    engine.alive = True
    done = command("judge-bias", str(pairs), *options)
    assert done.exit_code == 0, done.output
    assert len(engine.works) == 5 * 2 + 5 * 2
    for name in ("none", "swap"):
        lines = Path("records", f"{name}.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["id"] for line in lines) == ["0", "1", "2", "3", "4"]


def test_an_engine_that_only_fails_is_a_reason(
    command: Command, pairs: Path, engine: Scripted
) -> None:
    answer = engine._script

    def script(prompt: str, sampling: Sampling) -> Answer:
        if len(engine.works) > 10:
            raise EngineError("engine must run, got a fault; try again")
        return answer(prompt, sampling)

    engine._script = script
    done = command("judge-bias", str(pairs), "--methods", "none,swap", "--json", "r.json")
    assert done.exit_code == 1
    assert "swap could not run: engine must run" in done.stderr
    none, swap = json.loads(Path("r.json").read_text())["methods"]
    assert none["items"] == 5
    assert swap["reason"].startswith("engine must run")


def test_a_record_of_other_settings_is_refused(command: Command, pairs: Path) -> None:
    options = ("--methods", "none", "--out", "records")
    assert command("judge-bias", str(pairs), *options).exit_code == 0
    done = command("judge-bias", str(pairs), *options, "--seed", "1")
    assert done.exit_code == 1
    assert "out file must be of a run with the same settings" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "none,best"], "method must be one of none, swap"),
        (["--methods", ","], "methods must name one"),
        (["--format", "xml"], "format must be one of"),
        (["--html", "/dev/null/x"], "report must be a file that can be written"),
    ],
)
def test_a_mistake_is_one_sentence(
    command: Command, pairs: Path, arguments: list[str], said: str
) -> None:
    done = command("judge-bias", str(pairs), *arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
