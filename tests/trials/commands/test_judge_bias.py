"""`evenhand judge-bias`: methods side by side, each with its reason if it cannot run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from asking import Command

from server.engines.scripted import Answer, Scripted, content_judge
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


def test_it_ends_with_which_method_to_use(
    command: Command, engine: Scripted, tmp_path: Path
) -> None:
    """The longer answer is the right one; a judge alone sees it in one slot only."""
    engine._script = content_judge(lambda text, slot: float(len(text)) + 20 * (slot == 0))
    rows = [
        {"input": f"q{n}", "output_1": "a" * (1 + n % 7), "output_2": "b" * 9, "label": 2}
        for n in range(40)
    ]
    data = tmp_path / "long.json"
    data.write_text(json.dumps(rows))
    files = ("--html", "r.html", "--json", "r.json")
    done = command("judge-bias", str(data), "--methods", "none,swap", *files)
    assert done.exit_code == 0, done.output
    assert re.search(r"preferred right +\.500 +1\.000", done.stdout)
    assert re.search(r"order 1 +0\.000 +\+1\.000", done.stdout)
    found = json.loads(Path("r.json").read_text())
    assert found["comparison"]["use"] == found["comparison"]["best"] == "swap"
    assert "points" not in found["methods"][0]
    said = "Every other is less accurate by more than chance: use swap."
    assert said in found["comparison"]["advice"] and said in Path("r.html").read_text()
    assert said in done.stdout.replace("\n", " ").replace("  ", " ")


def test_a_sample_is_drawn_by_the_seed_and_told(
    command: Command, pairs: Path, engine: Scripted
) -> None:
    def drawn(*options: str) -> list[str]:
        engine.alive = True
        Path("v/none.jsonl").unlink(missing_ok=True)
        asked = ("--methods", "none", "--out", "v", *options)
        done = command("judge-bias", str(pairs), *asked)
        assert done.exit_code == 0, done.output
        lines = [json.loads(line) for line in Path("v/none.jsonl").read_text().splitlines()]
        if "--sample" in options:
            assert {line["run"]["sample"] for line in lines} == {int(options[-1])}
        return [line["id"] for line in lines]

    everything = drawn()
    samples = [drawn("--seed", str(seed), "--sample", "2") for seed in range(6)]
    assert len({tuple(each) for each in samples}) > 2
    assert samples[0] == drawn("--seed", "0", "--sample", "2")
    assert {*samples[0]} < {*drawn("--seed", "0", "--sample", "3")} < {*everything}
    assert drawn("--sample", "9") == everything


def test_a_judge_that_says_t_of_most_pairs_is_told_of(
    command: Command, pairs: Path, engine: Scripted
) -> None:
    engine._script = content_judge(lambda text, slot: float(slot), tie=2.0)
    options = ("--methods", "none", "--html", "r.html", "--ties")
    done = command("judge-bias", str(pairs), *options, "allow")
    assert "none: T is the label of 100% of the calls, which is a habit" in done.stderr
    assert "T is the label of 100%" in Path("r.html").read_text()
    engine.alive = True
    assert "T is the label" not in command("judge-bias", str(pairs), *options, "forbid").stderr


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
