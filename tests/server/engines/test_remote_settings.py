"""From settings and the command line to another server, or to one line that says why not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from other_server import KEY, OtherServer, other_server
from pydantic import ValidationError
from typer.testing import CliRunner

from server import cli
from server.engines.base import Engine
from server.engines.registry import load
from server.errors import PlanError
from server.settings import Settings
from trials.cli import app


@pytest.fixture(scope="module")
def theirs() -> Iterator[OtherServer]:
    with other_server() as made:
        yield made


def remote(**more: object) -> Settings:
    given = {"engine": "remote", "remote_url": "http://127.0.0.1:1/v1", **more}
    return Settings(**given)  # type: ignore[arg-type]


def test_the_served_name_is_the_other_servers_unless_told_another() -> None:
    assert remote().names == ("remote",)
    assert remote().naming("theirs").names == ("theirs",)
    assert remote(remote_model="mine").naming("theirs").names == ("mine",)
    assert remote(served_model_name=("a", "b")).naming("theirs").names == ("a", "b")
    assert Settings().naming("theirs").names == ("pocket",)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(engine="remote"), "must have the URL of a server, got none; give --remote-url"),
        (remote(model=Path("x")), "cannot load a model, got x; name the other server's model"),
        (
            remote(engine="hf"),
            "'hf' cannot use another server, got one on 127.0.0.1; give --eng",
        ),
    ],
)
def test_settings_that_contradict_each_other(settings: Settings, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        load(settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"remote_url": "host/v1"},
        {"remote_url": "ftp://host/v1"},
        {"remote_timeout": 0},
        {"remote_concurrency": 0},
        {"remote_retries": -1},
        {"remote_logprobs": "maybe"},
    ],
)
def test_settings_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        remote(**wrong)


def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    arguments = ["serve", "--engine", "remote", "--remote-url", "http://127.0.0.1:1/v1"]
    done = CliRunner().invoke(app, [*arguments, "--remote-retries", "0"])
    assert done.exit_code == 1
    assert done.stderr == (
        "evenhand: remote server must be reachable, got no connection to http://127.0.0.1:1/v1 or "
        "a broken one; try again when it is up\n"
    )


def test_options_reach_the_engine(theirs: OtherServer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Settings, Engine]] = []

    async def serve(settings: Settings, engine: Engine, *more: object) -> None:
        seen.append((settings, engine))
        await engine.close()

    monkeypatch.setattr(cli, "_serve", serve)
    monkeypatch.setenv("EVENHAND_REMOTE_KEY", KEY)
    monkeypatch.setenv("EVENHAND_REMOTE_LOGPROBS", "no")
    options = ["--remote-url", theirs.address, "--remote-timeout", "5", "--max-model-len", "99"]
    done = CliRunner().invoke(app, ["serve", "--engine", "remote", *options])
    assert done.exit_code == 0, done.output
    ((settings, engine),) = seen
    assert settings.names == (engine.info.id,) == ("theirs",)
    assert engine.info.max_model_len == 99
    assert engine.offers == {"text"}
    assert "its operator says" in engine.info.refusals["logprobs"]
    assert theirs.keys == [f"Bearer {KEY}"]
    assert KEY not in repr(settings)
    assert not engine.alive


def test_served_under_another_name(theirs: OtherServer) -> None:
    engine = load(
        remote(remote_url=theirs.address, served_model_name=("x", "y"), remote_logprobs="yes")
    )
    asyncio.run(engine.close())
    assert engine.info.id == "x"
    assert engine.offers == {"text", "logprobs"}
    assert engine.info.root == f"{theirs.address}/models/theirs"
