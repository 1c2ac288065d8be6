"""Edit sessions over HTTP, around a scripted engine that keeps its text."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from asking import Client

from server.engines.scripted import Answer, Scripted
from server.errors import PlanError
from server.job import Sampling, Work
from server.prompt import TextPrompt

PATH = "/v1/edit-sessions"


def kept(text: str | None = None) -> Scripted:
    """Return an engine that keeps its text, and repeats it or says the same always."""
    return Scripted(lambda prompt, _: Answer(prompt if text is None else text), ("text", "attention"))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def at(line: int, character: int, to: int | None = None, text: str = "") -> dict[str, Any]:
    """Return a change on one line."""
    end = {"line": line, "character": character if to is None else to}
    return {"range": {"start": {"line": line, "character": character}, "end": end}, "text": text}


async def test_a_text_is_made_edited_asked_about_shown_and_dropped(client: Client) -> None:
    http = await client(kept())
    made = (await http.post(PATH, json={"text": "one\ntwo 🦊 three\n"})).json()
    assert (made["version"], made["hash"], made["model"]) == (0, sha("one\ntwo 🦊 three\n"), "pocket")
    assert made["stages"] == [{"stage": "pie"}]
    path = f"{PATH}/{made['id']}"
    changes = [at(1, 7, 12, "four"), at(0, 99, text=" and"), {"offset": 3, "length": 4, "text": ""}]
    edit = {"base_version": 0, "version": 3, "changes": changes, "wait": True}
    text = "one\ntwo 🦊 four\n"
    said = (await http.patch(path, json=edit)).json()
    assert (said["version"], said["hash"], said["read_version"]) == (3, sha(text), 3)
    assert said["tokens"] == {"reused": 0, "moved": 0, "recomputed": 1}
    where = {"position": {"line": 1, "character": 6}, "max_tokens": 5}
    reply = (await http.post(f"{path}/complete", json=where)).json()
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"] == "one\ntwo 🦊"
    assert reply["evenhand"]["stages"] == [{"stage": "pie"}]
    assert reply["evenhand"]["notes"]["session"] == {"id": made["id"], "version": 3}
    shown = (await http.get(path)).json()
    assert (shown["text"], shown["version"], shown["hash"]) == (text, 3, sha(text))
    assert (await http.delete(path)).json() == {
        "id": made["id"],
        "object": "edit_session",
        "deleted": True,
    }
    assert (await http.get(path)).status_code == 404
