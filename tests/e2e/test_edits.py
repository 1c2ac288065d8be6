"""A long recorded trace of edits over a bad line ends with the text that the editor has."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from live import serving
from websockets.asyncio.client import ClientConnection, connect

from server.app import create_app
from server.engines.scripted import Answer, Scripted
from server.settings import Settings

PATH = "/v1/edit-sessions"
EDITS = 2000
MARKS = ["x", "é", "e\u0301", "東", "🦊", "\r", "\n", "\r\n", "\f", "\u2028", " = ", "return "]
WINDOW = 24  # edits that are sent before the oldest of them is acknowledged


@dataclass
class Editor:
    """Somebody who types: what he has, and every edit that he made, as on the wire."""

    chance: random.Random
    text: str = "def f(x):\r\n    return x\n"
    trace: list[dict[str, Any]] = field(default_factory=list)

    def type(self) -> None:
        """Make one edit of one to three changes, and record it."""
        base, changes = len(self.trace), []
        for _ in range(self.chance.choice([1, 1, 1, 1, 2, 3])):
            start = self.chance.randint(0, len(self.text))
            much = self.chance.choice([0, 0, 0, 1, 2, 9])
            stop = min(start + much, len(self.text))
            new = "".join(self.chance.choices(MARKS, k=self.chance.choice([0, 1, 1, 1, 3])))
            changes.append(self._change(start, stop, new))
            self.text = self.text[:start] + new + self.text[stop:]
        frame = {"type": "edit", "base_version": base, "version": base + 1, "changes": changes}
        self.trace.append({**frame, "hash": sha(self.text)})

    def _change(self, start: int, stop: int, new: str) -> dict[str, Any]:
        before, gone = self.text[:start], self.text[start:stop]
        split = before.endswith("\r") and self.text[start:].startswith("\n")
        split |= self.text[:stop].endswith("\r") and self.text[stop:].startswith("\n")
        if split or self.chance.random() < 0.3:  # no position stands between a return and its feed
            return {"offset": units(before), "length": units(gone), "text": new}
        return {"range": {"start": place(before), "end": place(self.text[:stop])}, "text": new}


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def place(before: str) -> dict[str, int]:
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return {"line": len(lines) - 1, "character": units(lines[-1])}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    engine = Scripted(lambda prompt, _: Answer(prompt), ("text", "attention"))
    with serving(create_app(Settings(queue_limit=64), engine)) as found:
        yield found


@pytest.fixture
async def http(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address) as made:
        yield made


async def opened(http: httpx.AsyncClient, text: str) -> str:
    reply = await http.post(PATH, json={"text": text})
    return str(reply.json()["id"])


async def shown(http: httpx.AsyncClient, session: str) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"{PATH}/{session}")).json()
    return found


def line(address: str, session: str) -> connect:
    return connect(f"{address.replace('http', 'ws')}{PATH}/{session}/ws")


async def told(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        found: dict[str, Any] = json.loads(await socket.recv())
    return found


async def send(
    socket: ClientConnection, frames: list[dict[str, Any]], chance: random.Random
) -> None:
    """Send some edits as a bad line does: some twice, some before their time."""
    sent = [frame for frame in frames for _ in range(1 + (chance.random() < 0.1))]
    order = sorted(range(len(sent)), key=lambda at: at + chance.choice([0, 0, 0, 4]))
    for at in order:
        await socket.send(json.dumps(sent[at]))
    left = len(sent)
    while left:
        ack = await told(socket)
        assert ack["type"] == "ack", ack
        left -= 1


async def test_a_trace_with_all_that_goes_wrong_ends_with_equal_texts(
    address: str, http: httpx.AsyncClient
) -> None:
    chance = random.Random(12)
    editor = Editor(chance)
    session = await opened(http, editor.text)
    for _ in range(EDITS):
        editor.type()
    done = 0
    while done < EDITS:
        async with line(address, session) as socket:
            opening = await told(socket)
            assert opening["version"] >= done  # what was acknowledged before the line broke holds
            assert opening["hash"] == (
                editor.trace[opening["version"] - 1]["hash"] if done else opening["hash"]
            )
            for _ in range(12):
                frames = editor.trace[done : done + WINDOW]
                await send(socket, frames, chance)
                done += len(frames)
            for frame in editor.trace[done : done + 9]:  # nobody waits for what is said to these
                await socket.send(json.dumps(frame))
            if chance.random() < 0.5:
                socket.transport.abort()  # the client is killed
    found = await shown(http, session)
    assert found["version"] == EDITS
    assert found["text"] == editor.text
    assert found["hash"] == sha(editor.text)


async def test_a_client_that_lost_its_count_sends_the_whole_text(
    address: str, http: httpx.AsyncClient
) -> None:
    editor = Editor(random.Random(3))
    session = await opened(http, "something else")
    editor.type()
    async with line(address, session) as socket:
        await told(socket)
        await socket.send(json.dumps({**editor.trace[0], "base_version": 7, "version": 8}))
        resync = await told(socket)
        assert (resync["type"], resync["reason"]) == ("resync", "gap")
        await socket.send(json.dumps({"type": "edit", "text": editor.text}))
        ack = await told(socket)
        assert (ack["version"], ack["hash"]) == (1, sha(editor.text))
    assert (await shown(http, session))["text"] == editor.text


async def test_sessions_never_see_each_others_text(http: httpx.AsyncClient) -> None:
    names = [f"secret-{number}" for number in range(20)]
    ids = [await opened(http, f"{name} ") for name in names]

    async def work(name: str, session: str) -> str:
        text = ""
        for version in range(5):
            change = {"offset": 0, "text": f"{name} "}
            await http.patch(
                f"{PATH}/{session}", json={"base_version": version, "changes": [change]}
            )
            reply = await http.post(f"{PATH}/{session}/complete", json={"max_tokens": 50})
            text += reply.json()["choices"][0]["text"]
        return text

    texts = await asyncio.gather(*map(work, names, ids))
    for name, text in zip(names, texts, strict=True):
        assert set(text.split()) == {name}
