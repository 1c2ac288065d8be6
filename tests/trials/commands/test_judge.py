"""`evenhand judge`: a record, a card, and one sentence for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asking import Command

from server.engines.scripted import Answer, Scripted, content_judge, slot_lover
from server.errors import EngineError
from server.job import Sampling
from trials import trial


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_data_set_is_judged_recorded_and_reported(
    command: Command, pairs: Path, engine: Scripted
) -> None:
    done = command(
        "judge", str(pairs), "--method", "swap", "--out", "v.jsonl", "--report", "r.json"
    )
    assert done.exit_code == 0, done.output
    found = sorted(records(Path("v.jsonl")), key=lambda record: record["id"])  # as they were done
    assert [record["id"] for record in found] == ["0", "1", "2", "3", "4"]
    assert [record["label"] for record in found] == ["output_1", "output_2"] * 2 + ["output_1"]
    assert {record["status"] for record in found} == {"order_conflict"}
    assert all(len(record["calls"]) == 2 for record in found)
    assert "consistency, PC" in done.stdout and "-1.000" in done.stdout
    report = json.loads(Path("r.json").read_text())
    assert report["card"]["preference_fairness"]["value"] == -1
    assert report["statuses"] == {"order_conflict": 5}
    assert report["stages"] == [{"stage": "swap"}]
    assert not engine.alive  # it was closed


def test_the_same_command_asks_only_for_what_is_missing(
    command: Command, pairs: Path, engine: Scripted
) -> None:
    options = ("--method", "none", "--out", "v.jsonl")
    command("judge", str(pairs), *options, "--limit", "2")
    engine.alive = True
    before = Path("v.jsonl").read_bytes()
    Path("v.jsonl").write_bytes(before + before[:50])
    done = command("judge", str(pairs), *options)
    assert done.exit_code == 0, done.output
    assert Path("v.jsonl").read_bytes().startswith(before)
    found = sorted(record["id"] for record in records(Path("v.jsonl")))
    assert found == ["0", "1", "2", "3", "4"]
    assert len(engine.works) == 5


def test_without_out_the_record_goes_to_standard_output_alone(
    command: Command, pairs: Path
) -> None:
    done = command("judge", str(pairs), "--stages", '[{"stage": "swap"}]', "--limit", "1")
    assert done.exit_code == 0, done.output
    [line] = done.stdout.splitlines()
    assert json.loads(line)["status"] == "order_conflict"
    assert "consistency, PC" in done.stderr


def test_options_reach_every_request(command: Command, pairs: Path, engine: Scripted) -> None:
    template = "{question}\n{criteria}\n{candidates}Say one letter."
    options = ("--template", template, "--criteria", "kindness", "--seed", "7", "--method", "none")
    assert command("judge", str(pairs), *options, "--out", "v.jsonl").exit_code == 0
    assert {work.sampling.seed for work in engine.works} == {7}
    assert "kindness" in str(engine.works[0].prompts)
    run = records(Path("v.jsonl"))[0]["run"]
    assert (run["criteria"], run["template"], run["seed"]) == ("kindness", template, 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.json"], "data must be a file, got none.json (No such file or directory)"),
        (["pairs.json", "--format", "xml"], "format must be one of auto, llmbar"),
        (["pairs.json", "--method", "best"], "method must be one of none, swap, calibrate, portia"),
        (
            ["pairs.json", "--method", "pine"],
            "stage 'pine' must have an engine that offers attention",
        ),
        (["pairs.json", "--stages", "{"], "--stages must be JSON"),
        (["pairs.json", "--stages", "{}"], "--stages must be a list"),
        (["pairs.json", "--stages", "[]", "--method", "swap"], "--stages cannot be given with"),
        (["pairs.json", "--method", "swap", "--max-calls", "1"], "max_calls must be at least 2"),
        (["pairs.json", "--threads", "-1"], "--threads (or EVENHAND_THREADS) must be"),
        (["pairs.json", "--out", "pairs.json"], "out file must be new, or of an earlier run"),
        (["pairs.json", "--fit", "labels"], "--fit must have a place where the fit is kept"),
        (["pairs.json", "--fit", "taste", "--state-dir", "s"], "--fit must be labels, got 'taste'"),
        (
            ["pairs.json", "--fit", "labels", "--fit-method", "spline", "--state-dir", "s"],
            "--fit-method must be one of temperature, isotonic, got 'spline'; name one",
        ),
        (
            ["pairs.json", "--fit", "labels", "--state-dir", "s"],
            "--fit must have at least 30 labelled pairs in the data, got 5; ",
        ),
        (["pairs.json", "--report", "/dev/null/x"], "report must be a file that can be written"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_lost(
    command: Command, pairs: Path, arguments: list[str], said: str
) -> None:
    before = pairs.read_bytes()
    done = command("judge", *arguments)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("evenhand: ")
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert pairs.read_bytes() == before


def test_other_settings_are_not_mixed_into_a_record(command: Command, pairs: Path) -> None:
    assert command("judge", str(pairs), "--method", "none", "--out", "v.jsonl").exit_code == 0
    before = Path("v.jsonl").read_bytes()
    done = command("judge", str(pairs), "--method", "swap", "--out", "v.jsonl")
    assert done.exit_code == 1
    assert "must be of a run with the same settings" in done.stderr
    assert Path("v.jsonl").read_bytes() == before


def test_an_engine_that_fails_leaves_what_was_judged(
    command: Command, pairs: Path, engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = engine._script

    def script(prompt: str, sampling: Sampling) -> Answer:
        if "q3" in prompt:
            raise EngineError("engine must run, got a fault; try again")
        return answer(prompt, sampling)

    engine._script = script
    options = ("--method", "none", "--out", "v.jsonl", "--concurrency", "1")
    done = command("judge", str(pairs), *options)
    assert done.exit_code == 1
    assert "1 items are missing: engine must run, got a fault" in done.stderr
    assert "run the same command again to go on" in done.stderr
    assert [record["id"] for record in records(Path("v.jsonl"))] == ["0", "1", "2", "4"]
    engine._script, engine.alive = answer, True
    assert command("judge", str(pairs), *options).exit_code == 0
    assert [record["id"] for record in records(Path("v.jsonl"))] == ["0", "1", "2", "4", "3"]


def test_ctrl_c_says_how_to_go_on(
    command: Command, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*anything: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "_asked", interrupt)
    done = command("judge", str(pairs), "--method", "none", "--out", "v.jsonl")
    assert done.exit_code == 130
    assert done.stderr.endswith("evenhand: stopped; run the same command again to go on\n")


def lengths(path: Path, count: int) -> str:
    """Write pairs of which the longer answer is labelled the better one, but for every fifth."""
    rows = [
        {
            "input": f"q{n}",
            "output_1": "a" * (1 + n % 3),
            "output_2": "b" * (2 + n % 4),
            "label": 2 if (2 + n % 4 > 1 + n % 3) == bool(n % 5) else 1,
        }
        for n in range(count)
    ]
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_fit_is_kept_and_used_by_the_next_request(
    command: Command, engine: Scripted, tmp_path: Path, method: str
) -> None:
    engine._script = content_judge(lambda text, slot: 4.0 * len(text) + (slot == 0))
    data = lengths(tmp_path / "many.json", 60)
    options = ("--method", "swap", "--out", "v.jsonl")
    fitted = ("--fit", "labels", "--fit-method", method, "--state-dir", "state")
    done = command("judge", data, *options, *fitted)
    assert done.exit_code == 0, done.output
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"evenhand: {method} ") and "labelled items is kept in state" in said
    before = {each["probability"] for each in records(Path("v.jsonl")) if each["probability"]}
    assert max(before) > 0.98  # 4 nats are taken for .982
    engine.alive = True
    done = command("judge", data, "--method", "swap", "--out", "w.jsonl", "--state-dir", "state")
    assert done.exit_code == 0, done.output
    for each in records(Path("w.jsonl")):
        if each["preferred"] is None:
            assert (each["probability"], each["calibrated"], each["margin"]) == (None, None, 0.0)
            continue
        assert each["calibrated"]["method"] == method
        assert each["calibrated"]["count"] == sum(
            row["margin"] > 0 for row in records(Path("w.jsonl"))
        )
        assert each["calibrated"]["log_loss"]["after"] < each["calibrated"]["log_loss"]["before"]
        assert 0.5 <= each["probability"] < 0.95
    engine.alive = True
    other = command("judge", data, "--method", "none", "--out", "n.jsonl", "--state-dir", "state")
    assert other.exit_code == 0, other.output  # another plan: not the one that was fitted
    assert {json.dumps(each["calibrated"]) for each in records(Path("n.jsonl"))} == {"null"}


def test_margins_that_are_none_fit_nothing(
    command: Command, engine: Scripted, tmp_path: Path
) -> None:
    engine._script = slot_lover()
    data = lengths(tmp_path / "many.json", 40)
    done = command("judge", data, "--method", "swap", "--fit", "labels", "--state-dir", "state")
    assert done.exit_code == 1
    assert "--fit must have at least 30 labelled pairs with a margin, got 0; " in done.stderr
