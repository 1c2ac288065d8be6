"""An editor, `evenhand lsp`, and a real server with edit sessions."""

from __future__ import annotations

import logging
import random
import re
from typing import Any

import httpx
import pytest
from editor import URI, editing
from live import eventually, serving

from server.app import create_app
from server.engines.base import Engine
from server.sessions.text import Text
from server.settings import Settings


def completed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the paths of the sessions that were asked, as the server has logged them."""
    return re.findall(r"/v1/edit-sessions/[\w-]+(?=/complete 200)", caplog.text)


def test_the_server_has_the_text_that_the_editor_has(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    draw, text = random.Random(12), "The lamp of Nils is red.\n" * 3
    with editing(address, max_tokens=2) as editor:
        editor.initialize()
        editor.open(text)
        for _ in range(15):
            start, stop = sorted(draw.choices(range(len(text) + 1), k=2))
            old = Text.of(text)
            span = [old.position(each, "utf-16") for each in (start, stop)]
            start, stop = (old.offset(each, "utf-16") for each in span)
            new = "".join(draw.choices(["a", "é ", "東", "🦊", "\n", "\f", "\u2028"], k=9))
            where: dict[str, Any] = {"start": span[0]._asdict(), "end": span[1]._asdict()}
            editor.change({"range": where, "text": new})
            text = text[:start] + new + text[stop:]
            editor.inline(*Text.of(text).position(start + len(new), "utf-16"), triggerKind=1)
        assert [sentence for _, sentence in editor.logs] == []
        # the server logs a request once its reply is gone
        eventually(lambda: len(completed(caplog)) == 15)
        paths = completed(caplog)
        assert len(paths) == 15 and len(set(paths)) == 1
        assert httpx.get(address + paths[0]).json()["text"] == text
        editor.close()
        eventually(lambda: httpx.get(address + paths[0]).status_code == 404)


def test_a_text_beyond_the_context_is_completed(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with editing(address, max_tokens=2, context_characters=100_000) as editor:
        editor.initialize()
        editor.open("The lamp of Nils is red. " * 2_000 + "The lamp of Nils is ")
        offers = editor.inline(0, 50_020, triggerKind=1)
        assert [sentence for _, sentence in editor.logs] == []
        eventually(lambda: "POST /v1/completions 200" in caplog.text)
        assert "POST /v1/completions 200" in caplog.text, offers


def test_typing_on_leaves_the_server_idle(settings: Settings, engine: Engine) -> None:
    app = create_app(settings, engine)
    place = {"line": 2, "character": 0}
    params = {"textDocument": {"uri": URI}, "position": place, "context": {"triggerKind": 1}}
    with serving(app) as address, editing(address, max_tokens=4_000) as editor:
        editor.initialize()
        editor.open("The lamp of Nils is red.\nThe lamp of Nils is:\n")
        for character in range(5):
            request = editor.send("textDocument/inlineCompletion", params)
            eventually(lambda: app.state.admission.running)
            editor.type(2, character, "x")
            assert editor.answer(request)["result"]["items"] == []
        eventually(lambda: app.state.admission.running == 0)
        assert [sentence for _, sentence in editor.logs] == []
