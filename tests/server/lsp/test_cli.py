"""`evenhand lsp` as an editor starts it: a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from completing import Completing
from editor import Editor
from typer.testing import CliRunner

from server.settings import Settings
from trials.cli import app

START = [sys.executable, "-W", "error", "-c", "from trials.cli import app; app()", "lsp"]


def test_a_process_answers_and_ends(
    served: tuple[Completing, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, address = served
    backend.key = "sesame"
    monkeypatch.setenv("EVENHAND_LSP_KEY", "sesame")
    with subprocess.Popen(
        [*START, "--url", address, "--model", "mine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        editor = Editor(process.stdout, process.stdin)
        editor.initialize()
        editor.open("x = ")
        assert editor.inline(0, 4) != []
        assert backend.asked[0][1]["model"] == "mine"
        editor.leave()
        assert process.wait(20) == 0
        assert process.stderr is not None and process.stderr.read() == b""


def test_its_key_is_nothing_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENHAND_LSP_KEY", "sesame")
    assert Settings().api_keys == ()


def test_an_address_that_is_none() -> None:
    done = CliRunner().invoke(app, ["lsp", "--url", "here"])
    assert done.exit_code == 1
    assert done.stderr.startswith("evenhand: setting evenhand.url must be usable (")


def test_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server.lsp.server", raising=False)
    monkeypatch.setitem(sys.modules, "lsprotocol", None)
    done = CliRunner().invoke(app, ["lsp"])
    assert done.exit_code == 1
    assert done.stderr.endswith("; pip install 'evenhand[lsp]'\n")
