"""Servers that keep documents, lose them, or never had them."""

from __future__ import annotations

from completing import Completing
from editor import Editor, logged
from live import eventually

from server.lsp.asking import Place, window

DEF = "def add(a, b):\n    \n\nx = 1\n"


def offers(editor: Editor, line: int = 1, character: int = 4) -> list[str]:
    return [each["insertText"] for each in editor.inline(line, character)]


def test_changes_go_out_as_they_come(backend: Completing, editor: Editor) -> None:
    editor.open(DEF)
    offers(editor)
    editor.type(3, 5, "0")
    eventually(lambda: [*backend.kept.values()] == [DEF.replace("x = 1", "x = 10")])
    assert backend.paths == ["create", "complete", "patch"]


def test_a_lost_document_is_sent_again(backend: Completing, editor: Editor) -> None:
    editor.open(DEF)
    offers(editor)
    backend.kept.clear()
    editor.type(1, 4, "x")
    assert offers(editor, 1, 5) == ["done"]
    backend.kept.clear()
    editor.type(1, 5, "y")
    eventually(lambda: backend.paths[-1] in ("patch", "create"))
    assert offers(editor, 1, 6) == ["done"]
    assert [*backend.kept.values()] == [DEF.replace("    ", "    xy")]


def test_a_document_that_is_lost_when_it_is_asked_about(
    backend: Completing, editor: Editor
) -> None:
    editor.open(DEF)
    offers(editor)
    backend.kept.clear()
    assert offers(editor, 3, 5) == ["done"]
    assert backend.paths == ["create", "complete", "complete", "create", "complete"]


def test_a_document_that_went_another_way_is_sent_again(
    backend: Completing, editor: Editor
) -> None:
    editor.open(DEF)
    offers(editor)
    (session,) = backend.kept
    backend.versions[session] = 7
    editor.type(1, 4, "x")
    assert offers(editor, 1, 5) == ["done"]
    assert backend.paths.count("create") == 2


def test_a_server_without_sessions_gets_prompt_and_suffix(
    backend: Completing, editor: Editor
) -> None:
    backend.keeps = False
    editor.open(DEF)
    assert offers(editor) == ["done"]
    assert backend.asked[-1] == (
        "completions",
        {
            "prompt": "def add(a, b):\n    ",
            "suffix": "\n\nx = 1\n",
            "max_tokens": 128,
            "temperature": 0,
            "model": "coder",
            "stream": True,
        },
    )
    editor.open("x = ")
    editor.inline(0, 4)
    assert backend.paths == ["completions", "completions"]  # it is not asked for sessions again


def test_a_model_that_cannot_fill_in_continues(backend: Completing, editor: Editor) -> None:
    backend.keeps = backend.fills = False
    editor.open(DEF)
    assert offers(editor) == ["done"]
    editor.type(1, 4, "x")
    assert offers(editor, 1, 5) == ["done"]
    assert ["suffix" in body for _, body in backend.asked] == [True, False, False]


def test_a_text_that_is_too_long_is_read_around_the_cursor(
    backend: Completing, editor: Editor
) -> None:
    backend.context = 2_000
    text = "".join(f"line_{number} = {number}\n" for number in range(2_000))
    editor.open(text + "x = \n" + text)
    assert offers(editor, 2_000, 4) == ["done"]
    ((before, after),) = backend.places
    assert before.startswith("line_") and before.endswith("\nx = ")
    assert after.startswith("\nline_0 = 0\n")
    assert 1_000 < len(before) + len(after) <= 2_000


def test_line_ends_are_those_of_the_document(backend: Completing, editor: Editor) -> None:
    backend.complete = lambda before, after: ["x = 1\n    return x\n"]
    editor.open("def f():\r\n    \r\n")
    assert offers(editor) == ["x = 1\r\n    return x"]


def test_the_last_line_of_a_block_is_a_whole_one(backend: Completing, editor: Editor) -> None:
    backend.reason = "length"
    backend.complete = lambda before, after: ["one\n    two\n    thr"]
    editor.open("def f():\n    ")
    assert offers(editor) == ["one\n    two"]


def test_a_server_that_fails_midway_is_told(backend: Completing, editor: Editor) -> None:
    backend.fault = "model must answer, got none; try again"
    editor.open(DEF)
    assert offers(editor) == []
    logged(editor, "completion broke off: model must answer, got none; try again")
    backend.fault = None
    assert offers(editor) == ["done"]


def test_a_window_is_filled_from_both_sides() -> None:
    assert window(Place("a" * 10, "b" * 10), 100) == ("a" * 10, "b" * 10)
    assert window(Place("aaa\n" * 300, "b" * 1000), 402) == ("aaa\n" * 75, "b" * 100)
    assert window(Place("aaa\n" * 300, "b"), 401) == ("aaa\n" * 99, "b")
    assert window(Place("a", "b" * 1000), 400) == ("a", "b" * 399)
    assert window(Place("a" * 1000, ""), 400) == ("a" * 400, "")
