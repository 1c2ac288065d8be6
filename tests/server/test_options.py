"""Options that commands share are defined once, and reach the settings of each."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from server import options
from server.engines.scripted import Scripted
from server.settings import Settings
from trials.cli import app

SHARED = ("model", "device", "dtype", "device_map", "max_memory", "threads", "max_model_len")
GIVEN = {
    "model": "org/name@v1",
    "dtype": "bfloat16",
    "device_map": "auto",
    "max_memory": "cpu=1GiB",
    "threads": "3",
    "max_model_len": "99",
    "reuse_bytes": "5",
}


def test_every_shared_option_is_a_setting() -> None:
    shared = options.options_of(options.Chosen, options.ChosenElsewhere)
    assert set(SHARED) <= set(shared) <= set(Settings.model_fields)


@pytest.mark.parametrize("command", ["serve", "judge", "judge-bias", "inspect"])
def test_every_command_that_loads_a_model_takes_them(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"]).stdout
    for name in options.options_of(options.Chosen):
        told = name == "model" and command == "inspect"
        assert ("[model]" if told else f"--{name.replace('_', '-')}") in shown
    assert "org/name[@revision]" in " ".join(shown.split())


def test_a_command_gets_what_was_given_first() -> None:
    seen: list[dict[str, Any]] = []

    class Numbers:
        count: Annotated[int | None, typer.Option(help="how many")]
        name: Annotated[str | None, typer.Option(help="of what")]

    @options.taking(Numbers, without=["name"])
    def command(chosen: options.Given, own: int = 3) -> None:
        seen.append({**chosen, "own": own})

    alone = typer.Typer()
    alone.command()(command)
    assert CliRunner().invoke(alone, ["--count", "7"]).exit_code == 0
    assert CliRunner().invoke(alone, ["--own", "4"]).exit_code == 0
    assert CliRunner().invoke(alone, ["--name", "x"]).exit_code == 2
    assert seen == [{"count": 7, "own": 3}, {"count": None, "own": 4}]


@pytest.mark.parametrize("command", ["judge", "judge-bias"])
def test_what_a_trial_is_given_reaches_the_engine(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Settings] = []

    def load(settings: Settings) -> Scripted:
        seen.append(settings)
        return Scripted([])

    monkeypatch.setattr("server.engines.registry.load", load)
    given = [
        word for name, value in GIVEN.items() for word in (f"--{name.replace('_', '-')}", value)
    ]
    CliRunner().invoke(app, [command, "pocket:2", *given])
    (settings,) = seen
    assert {name: str(getattr(settings, name)) for name in GIVEN} == GIVEN


def test_inspect_prints_what_was_measured() -> None:
    done = CliRunner().invoke(app, ["inspect", "--json", "--threads", "1", "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["model"], found["architecture"]) == ("pocket", "LlamaForCausalLM")
    assert found["parameters"] == 1_114_752
    assert found["weight_bytes"] == 4 * found["parameters"]
    (layer,) = found["layers"]
    assert layer == {
        "count": 5,
        "positions": "half",
        "base": 10000.0,
        "rotated": 32,
        "window": None,
        "refusal": None,
    }
    assert found["cache_bytes"] == 1000 * 5 * 2 * 2 * 32 * 4
    sets = ("average", "parallel", "pine", "rerank")
    assert found["readings"] == dict.fromkeys((*sets, "group-positions", "lm-infinite", "pie"))
    assert found["executor"] in ("cpu", "torch")


def test_inspect_says_why_it_cannot() -> None:
    done = CliRunner().invoke(app, ["inspect", "nowhere"])
    assert done.exit_code == 1
    assert done.stderr.startswith("evenhand: model must be a folder")
