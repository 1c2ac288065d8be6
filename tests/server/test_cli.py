"""The command line: a server that cannot start says why in one line and exits with 1."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server import cli
from server.engines.scripted import Scripted
from server.settings import Settings
from trials.cli import app


def fails(*arguments: str) -> str:
    """Return what `evenhand serve` leaves on standard error."""
    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 1
    assert done.stdout == ""
    return done.stderr


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    said = fails("--model", str(tmp_path / "none"))
    assert said.count("\n") == 1
    assert said.startswith("evenhand: model must be a folder with a config.json, a .gguf file or")


@pytest.mark.parametrize("config", ["{", '{"model_type": "nothing"}', '{"model_type": "llama"}'])
def test_a_model_that_cannot_be_loaded(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    said = fails("--model", str(tmp_path)).splitlines()
    assert len(said) == 1
    assert re.match(r"evenhand: .* must .*, got .*; .*", said[0])


def test_a_setting_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fails("--port", "70000") == (
        "evenhand: --port (or EVENHAND_PORT) must be less than or equal to 65535, got '70000'; "
        "correct it\n"
    )
    monkeypatch.setenv("EVENHAND_QUEUE_LIMIT", "0")
    assert fails().startswith("evenhand: --queue-limit (or EVENHAND_QUEUE_LIMIT) must be")


def test_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENHAND_KEEPALIVE_SECONDS", "3")
    assert fails("--model", "none") == (
        "evenhand: environment variable must be one that this server knows, got "
        "EVENHAND_KEEPALIVE_SECONDS; did you mean EVENHAND_KEEP_ALIVE_SECONDS\n"
    )


def test_options_win_and_reach_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    engine = Scripted([])

    def load(settings: Settings) -> Scripted:
        seen.append(settings)
        return engine

    async def serve(settings: Settings, engine: Scripted) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(cli, "load", load)
    monkeypatch.setattr(cli, "_serve", serve)
    monkeypatch.setenv("EVENHAND_PORT", "1")
    monkeypatch.setenv("EVENHAND_THREADS", "3")
    options = ["--port", "2", "--api-key", "a", "--api-key", "b", "--served-model-name", "m"]
    done = CliRunner().invoke(app, ["serve", *options, "--strict", "--queue-limit", "5"])
    assert done.exit_code == 0, done.output
    (settings,) = seen
    assert (settings.port, settings.threads, settings.queue_limit) == (2, 3, 5)
    assert settings.strict
    assert settings.names == ("m",)
    assert [key.get_secret_value() for key in settings.api_keys] == ["a", "b"]
