"""A session on one connection: acknowledgements, answers, resynchronisation, and its end."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from live import serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.app import create_app
from server.chunk import Chunk
from server.engines.scripted import Answer, Scripted
from server.job import Work
from server.sessions import session as sessions
from server.settings import Settings

PATH = "/v1/edit-sessions"


class Talk:
    """A client of one session."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.version = 0

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def edit(self, offset: int, text: str, length: int = 0) -> None:
        """Send the next edit."""
        changes = [{"offset": offset, "length": length, "text": text}]
        base, self.version = self.version, self.version + 1
        await self.send("edit", base_version=base, version=self.version, changes=changes)

    async def hear(self, kind: str | None = None) -> dict[str, Any]:
        """Return the next frame, which must be of this kind."""
        async with asyncio.timeout(10):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
        assert kind in (None, frame["type"]), frame
        return frame

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """Return all frames up to the first of this kind."""
        heard = [await self.hear()]
        while heard[-1]["type"] != kind:
            heard.append(await self.hear())
        return heard


@asynccontextmanager
async def talking(address: str, session: str, key: str | None = None) -> AsyncIterator[Talk]:
    url = f"{address.replace('http', 'ws')}{PATH}/{session}/ws"
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with connect(url, additional_headers=headers) as socket:
        talk = Talk(socket)
        talk.version = (await talk.hear("ack"))["version"]
        yield talk


def made(address: str, headers: dict[str, str] | None = None, **body: Any) -> str:
    reply = httpx.post(f"{address}{PATH}", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


def shown(address: str, session: str) -> str:
    return str(httpx.get(f"{address}{PATH}/{session}").json()["text"])


@pytest.fixture
def engine() -> Scripted:
    return Scripted(lambda prompt, _: Answer(prompt), ("text", "attention"))


@pytest.fixture
def address(engine: Scripted) -> Iterator[str]:
    with serving(create_app(Settings(), engine)) as found:
        yield found


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_edits_are_acknowledged_and_an_answer_comes_in_pieces(address: str) -> None:
    async with talking(address, made(address, text="a b")) as talk:
        await talk.edit(3, " c")
        ack = await talk.hear("ack")
        assert (ack["version"], ack["hash"]) == (1, sha("a b c"))
        await talk.send("complete", id="c1", version=1, offset=3)
        *deltas, done = await talk.until("done")
        assert [(each["id"], each["seq"], each["text"]) for each in deltas] == [
            ("c1", 0, "a"),
            ("c1", 1, " b"),
        ]
        assert (done["id"], done["seq"], done["version"]) == ("c1", 2, 1)
        assert done["finish_reason"] == "stop"
        assert done["usage"]["completion_tokens"] == 2
        assert done["evenhand"]["stages"] == [{"stage": "pie"}]
        assert done["evenhand"]["notes"]["edit"]["recomputed"] == 2


async def test_an_edit_that_is_repeated_or_comes_too_early_is_taken_once(address: str) -> None:
    session = made(address, text="")
    async with talking(address, session) as talk:
        for base in (1, 0, 0, 1, 2):
            change = {"offset": base, "text": str(base)}
            await talk.send("edit", base_version=base, version=base + 1, changes=[change])
        acks = [await talk.hear("ack") for _ in range(5)]
        assert sorted(ack["version"] for ack in acks) == [1, 1, 2, 2, 3]
    assert shown(address, session) == "012"


async def test_a_gap_that_stays_and_a_stale_edit_end_in_one_resync_each(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "HOLD_SECONDS", 0.05)
    session = made(address, text="ab")
    async with talking(address, session) as talk:
        change = [{"offset": 0, "text": "x"}]
        for base in (5, 6, 7):
            await talk.send("edit", base_version=base, version=base + 1, changes=change)
        resync = {"type": "resync", "expected_version": 0, "hash": sha("ab")}
        assert await talk.hear() == {**resync, "reason": "gap"}
        await talk.send("edit", text="abc", version=9)
        assert (await talk.hear("ack"))["version"] == 9
        await talk.send("edit", base_version=3, version=4, changes=change)
        later = {**resync, "expected_version": 9, "hash": sha("abc")}
        assert await talk.hear() == {**later, "reason": "stale"}
        await talk.send("edit", base_version=9, changes=change, hash=sha("else"))
        assert await talk.hear() == {**later, "reason": "hash"}
    assert shown(address, session) == "abc"


async def test_what_cannot_be_read_is_told_and_the_connection_goes_on(address: str) -> None:
    session = made(address, text="ab")
    async with talking(address, session) as talk:
        for raw, said in (
            ("{", "frame must be JSON"),
            ("[]", "frame must be of type edit, complete, cancel, got null"),
            ('{"type": "edit"}', "edit must have changes"),
            ('{"type": "complete", "id": "c", "offset": 9}', "offset must be 0 to 2"),
        ):
            await talk.socket.send(raw)
            error = await talk.hear("error")
            assert error["error"]["message"].startswith(said)
        assert error["id"] == "c"
        await talk.socket.send(b'{"type": "edit", "text": "bytes"}')
        assert (await talk.hear("ack"))["hash"] == sha("bytes")


class Endless(Scripted):
    """Counts for as long as it is asked."""

    def __init__(self) -> None:
        super().__init__([Answer("")], ("text", "attention"))

    async def _stream(self, work: Work) -> AsyncIterator[Chunk]:
        self.running += 1
        try:
            for number in range(100_000):
                await asyncio.sleep(0.001)
                yield Chunk(0, f"{number} ")
        finally:
            self.running -= 1


@asynccontextmanager
async def endless() -> AsyncIterator[tuple[Endless, str, str]]:
    """Serve an engine that never ends, with a session."""
    engine = Endless()
    with serving(create_app(Settings(queue_limit=2), engine)) as address:
        yield engine, address, made(address, text="count: ")


async def at_work(engine: Scripted, answers: int) -> None:
    async with asyncio.timeout(5):
        while engine.running != answers:  # noqa: ASYNC110  the engine has no event for it
            await asyncio.sleep(0.001)


async def test_an_answer_is_cancelled_by_its_id_by_an_edit_and_by_another() -> None:
    async with endless() as (engine, address, session), talking(address, session) as talk:
        for end in ("cancel", "edit", "complete"):
            await talk.send("complete", id=end)
            await talk.hear("delta")
            if end == "cancel":
                await talk.send("cancel", id=end)
            elif end == "edit":
                await talk.edit(0, "x")
            else:
                await talk.send("complete", id="other")
            done = (await talk.until("done"))[-1]
            assert (done["id"], done["finish_reason"]) == (end, "cancelled")
        await at_work(engine, 1)


async def test_typing_what_it_says_leaves_an_answer_alone() -> None:
    async with endless() as (_, address, session), talking(address, session) as talk:
        await talk.send("complete", id="c")
        await talk.until("delta")
        await talk.edit(7, "0 1")
        await talk.until("ack")
        assert [each["type"] for each in [await talk.hear(), await talk.hear()]] == ["delta"] * 2
        await talk.edit(10, " 2 3 5")
        assert (await talk.until("done"))[-1]["finish_reason"] == "cancelled"


@pytest.mark.parametrize("end", ["close", "kill"])
async def test_the_end_of_the_connection_stops_the_answer_and_frees_its_place(end: str) -> None:
    async with endless() as (engine, address, session):
        for _ in range(4):  # more than there are places
            async with talking(address, session) as talk:
                await talk.send("complete", id="c")
                await talk.hear("delta")
                assert engine.running == 1
                if end == "kill":
                    talk.socket.transport.abort()
            await at_work(engine, 0)
        async with talking(address, session) as talk:
            await talk.send("complete", id="c")
            assert (await talk.hear())["type"] == "delta"


async def test_a_session_that_is_dropped_ends_its_connections() -> None:
    async with endless() as (engine, address, session), talking(address, session) as talk:
        await talk.send("complete", id="c")
        await talk.hear("delta")
        await asyncio.to_thread(httpx.delete, f"{address}{PATH}/{session}")
        assert (await talk.until("done"))[-1]["finish_reason"] == "cancelled"
        await at_work(engine, 0)
        await talk.edit(0, "x")
        assert (await talk.hear("error"))["error"]["code"] == "session_not_found"
        with pytest.raises(ConnectionClosed):
            await talk.hear()


async def test_a_full_server_says_so_by_the_answers_id() -> None:
    async with endless() as (_, address, first):
        second, third = (made(address, text=name) for name in "bc")
        async with (
            talking(address, first) as one,
            talking(address, second) as two,
            talking(address, third) as three,
        ):
            for talk in (one, two):
                await talk.send("complete", id="c")
                await talk.hear("delta")
            await three.send("complete", id="c")
            error = await three.hear("error")
            assert (error["id"], error["error"]["code"]) == ("c", "queue_full")


@pytest.mark.parametrize(
    ("key", "session", "status"), [("two", None, 404), (None, None, 401), ("one", "es-no", 404)]
)
async def test_nobody_gets_in_without_the_key_that_made_it(
    engine: Scripted, key: str | None, session: str | None, status: int
) -> None:
    with serving(create_app(Settings(api_keys=("one", "two")), engine)) as address:
        headers = {"authorization": "Bearer one"}
        mine = made(address, headers, text="secret")
        async with talking(address, mine, "one"):
            pass
        with pytest.raises(InvalidStatus) as caught:
            async with talking(address, session or mine, key):
                pass
        assert caught.value.response.status_code == status
        assert b"secret" not in (caught.value.response.body or b"")


async def test_a_server_that_stops_closes_the_connection(engine: Scripted) -> None:
    app = create_app(Settings(), engine)

    async def abort() -> None:
        app.state.admission.abort()

    app.add_api_route("/abort", abort)
    with serving(app) as address:
        async with talking(address, made(address, text="a")) as talk:
            await asyncio.to_thread(httpx.get, f"{address}/abort")
            with pytest.raises(ConnectionClosed) as caught:
                await talk.hear()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012
