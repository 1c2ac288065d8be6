"""What an editor gets, message by message."""

from __future__ import annotations

import random
from typing import Any

import pytest
from completing import Completing
from editor import URI, Editor, editing, logged
from live import eventually

from server.sessions.text import Encoding, Position, Text

AWAY = "http://127.0.0.1:9"


def test_an_offer_goes_where_the_cursor_is(backend: Completing, editor: Editor) -> None:
    backend.complete = lambda before, after: ["ret", "urn a", " + b\n"]
    editor.open("def add(a, b):\n    \n\n\nx = 1\n")
    place = {"line": 1, "character": 4}
    offer = {"insertText": "return a + b", "range": {"start": place, "end": place}}
    assert editor.inline(1, 4) == [offer]
    created, asked = (body for _, body in backend.asked)
    assert backend.paths == ["create", "complete"]
    assert created["text"] == "def add(a, b):\n    \n\n\nx = 1\n"
    assert (asked["offset"], created["model"], asked["temperature"]) == (19, "coder", 0)


def test_a_line_is_asked_for_where_no_block_begins(backend: Completing, editor: Editor) -> None:
    editor.open("x = \n")
    editor.inline(0, 4)
    assert backend.asked[-1][1]["stop"] == ["\n"]
    editor.open("def f():\n    ")
    editor.inline(1, 4)
    assert "stop" not in backend.asked[-1][1]


def test_nothing_is_asked_within_a_word(backend: Completing, editor: Editor) -> None:
    editor.open("x = foo\n")
    assert editor.inline(0, 5) == [] and backend.asked == []
    assert editor.inline(0, 5, triggerKind=1) != []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_the_server_has_what_the_editor_has(
    served: tuple[Completing, str], encoding: Encoding
) -> None:
    """Whatever is typed, in all three encodings, the completion sees the editor's own text."""
    backend, address = served
    draw = random.Random(encoding)
    text = "x = 1\n"
    with editing(address) as editor:
        general = {"positionEncodings": [encoding]}
        capabilities = {"general": general, "textDocument": {"inlineCompletion": {}}}
        assert editor.initialize(capabilities)["positionEncoding"] == encoding
        editor.open(text)
        for _ in range(12):
            changes = []
            for _ in range(draw.randint(1, 3)):
                start, stop = sorted(draw.choices(range(len(text) + 1), k=2))
                old = Text.of(text)
                span = [old.position(each, encoding) for each in (start, stop)]
                start, stop = (old.offset(each, encoding) for each in span)
                new = "".join(draw.choices("aé\u6771🦊\n\f\u2028 \r", k=draw.randint(0, 6)))
                changes.append({"range": written(*span), "text": new})
                text = text[:start] + new + text[stop:]
            editor.change(*changes)
            cursor = Text.of(text).position(draw.randint(0, len(text)), encoding)
            editor.inline(*cursor, triggerKind=1)
            where = Text.of(text).offset(cursor, encoding)
            assert backend.places[-1] == (text[:where], text[where:])
        assert backend.paths.count("create") == 1


def written(start: Position, stop: Position) -> dict[str, Any]:
    return {"start": start._asdict(), "end": stop._asdict()}


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, "utf-16"),
        (["utf-16"], "utf-16"),
        (["utf-16", "utf-8"], "utf-8"),
        (["utf-32", "utf-8", "utf-16"], "utf-32"),
        (["morse"], "utf-16"),
    ],
)
def test_what_a_column_counts(offered: list[str] | None, chosen: str) -> None:
    general = {} if offered is None else {"general": {"positionEncodings": offered}}
    with editing(AWAY) as editor:
        assert editor.initialize(general)["positionEncoding"] == chosen


def test_a_cancelled_request_stops_the_server(backend: Completing, editor: Editor) -> None:
    backend.complete = lambda before, after: ["a"] * 1000
    backend.pause = 0.02
    editor.open("x = ")
    request = editor.ask_inline(0, 4)
    eventually(lambda: backend.running)
    editor.cancel(request)
    assert editor.answer(request)["error"]["code"] == -32800
    eventually(lambda: backend.stopped == 1)


def test_typing_on_stops_what_was_asked_before(backend: Completing, editor: Editor) -> None:
    backend.complete = lambda before, after: ["a"] * 1000
    backend.pause = 0.02
    editor.open("x = ")
    request = editor.ask_inline(0, 4)
    eventually(lambda: backend.running)
    editor.type(0, 4, "1")
    assert editor.answer(request)["result"]["items"] == []
    eventually(lambda: backend.stopped == 1)


def test_a_completion_is_stopped_where_it_has_ended(backend: Completing, editor: Editor) -> None:
    backend.complete = lambda before, after: ["return 1\n", "\n", "def g"] + ["g"] * 1000
    backend.pause = 0.02
    editor.open("def f():\n    ")
    assert editor.inline(1, 4)[0]["insertText"] == "return 1"
    eventually(lambda: backend.stopped == 1)


def test_typing_what_was_offered_asks_nobody(backend: Completing, editor: Editor) -> None:
    backend.complete = lambda before, after: ["return x"]
    editor.open("def f(x):\n    ")
    editor.inline(1, 4)
    editor.type(1, 4, "ret")
    assert [each["insertText"] for each in editor.inline(1, 7)] == ["urn x"]
    assert backend.paths.count("complete") == 1
    editor.type(1, 7, "!")
    editor.inline(1, 8)
    assert backend.paths.count("complete") == 2


def test_a_selected_entry_is_part_of_the_offer(backend: Completing, editor: Editor) -> None:
    backend.complete = lambda before, after: ["(1)"]
    editor.open("x = pr")
    span = {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 6}}
    selected = {"range": span, "text": "print"}
    offers = editor.inline(0, 6, selectedCompletionInfo=selected)
    assert offers == [{"insertText": "print(1)", "range": span}]
    assert backend.places == [("x = print", "")]


def test_an_editor_without_inline_completions_gets_an_entry(served: tuple[Completing, str]) -> None:
    backend, address = served
    backend.complete = lambda before, after: ["int(x)"]
    with editing(address) as editor:
        capabilities = editor.initialize({})
        assert "." in capabilities["completionProvider"]["triggerCharacters"]
        editor.open("y = 🦊; pr\n")
        params = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 10}}
        (entry,) = editor.request("textDocument/completion", params)["items"]
        assert entry["filterText"] == "pr"
        assert entry["textEdit"] == {
            "newText": "print(x)",
            "range": {"start": {"line": 0, "character": 8}, "end": params["position"]},
        }


def test_one_that_has_them_gets_no_entries(editor: Editor) -> None:
    with editing(AWAY) as other:
        assert "completionProvider" not in other.initialize()


def test_a_server_that_is_away_is_told_once(served: tuple[Completing, str]) -> None:
    with editing(AWAY) as editor:
        editor.initialize()
        editor.open("x = ")
        for _ in range(3):
            assert editor.inline(0, 4) == []
        logged(editor, "does not answer")
        assert [kind for kind, _ in editor.logs] == [2]
        # the document is there when the server is
        editor.notify(
            "workspace/didChangeConfiguration", {"settings": {"evenhand": {"url": served[1]}}}
        )
        assert [each["insertText"] for each in editor.inline(0, 4)] == ["done"]


def test_back_again_is_told(served: tuple[Completing, str]) -> None:
    backend, address = served
    backend.key = "sesame"
    with editing(address) as editor:
        editor.initialize()
        editor.open("x = ")
        assert editor.inline(0, 4) == []
        logged(editor, "answered 401: api key must be")
        backend.key = None
        assert editor.inline(0, 4) != []
        logged(editor, "answers again")


def test_settings_come_at_the_start_by_pull_and_by_push(served: tuple[Completing, str]) -> None:
    backend, address = served
    backend.key = "sesame"
    with editing(AWAY) as editor:
        editor.settings = {"apiKey": "sesame", "maxTokens": 7}
        capabilities = {
            "workspace": {"configuration": True},
            "textDocument": {"inlineCompletion": {}},
        }
        editor.initialize(capabilities, {"url": address, "maxTokens": 0})
        logged(editor, "setting evenhand.maxTokens must be usable")
        eventually(lambda: editor.pulled)
        editor.open("x = ")
        assert editor.inline(0, 4) != []
        assert backend.asked[-1][1]["max_tokens"] == 7
        editor.settings = {"enabled": False}
        editor.notify("workspace/didChangeConfiguration", {"settings": None})
        eventually(lambda: editor.pulled == 2)
        assert editor.inline(0, 4) == []


def test_a_change_that_cannot_be_is_told_and_the_editor_goes_on(editor: Editor) -> None:
    editor.open("🦊")
    half = {"line": 0, "character": 1}
    editor.change({"range": {"start": half, "end": half}, "text": "x"})
    logged(editor, f"{URI} is not followed any longer")
    assert editor.inline(0, 1, triggerKind=1) == []
    editor.open("x = ")
    assert editor.inline(0, 4) != []


def test_messages_for_a_document_that_is_not_open(editor: Editor) -> None:
    editor.type(0, 0, "x")
    editor.close()
    assert editor.inline(0, 0) == []
    assert not [sentence for kind, sentence in editor.logs if kind == 1]


def test_half_a_character_from_an_editor(backend: Completing, editor: Editor) -> None:
    editor.open("x = '\ud83d' + ")
    assert editor.inline(0, 10) != []
    assert backend.asked[0][1]["text"] == "x = '\ufffd' + "


def test_closed_documents_are_forgotten(backend: Completing, editor: Editor) -> None:
    editor.open("x = ")
    editor.inline(0, 4)
    assert len(backend.kept) == 1
    editor.close()
    eventually(lambda: not backend.kept)


def test_an_editor_that_leaves_leaves_nothing(served: tuple[Completing, str]) -> None:
    backend, address = served
    with editing(address) as editor:
        editor.initialize()
        editor.open("x = ")
        editor.inline(0, 4)
        assert len(backend.kept) == 1
    assert not backend.kept
