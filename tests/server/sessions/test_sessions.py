"""Sessions within a budget: whose they are, what goes first, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest

from server.engines.base import Edit
from server.engines.scripted import Answer, Scripted
from server.errors import PlanError
from server.job import ReadingSpec, Sampling
from server.prompt import Prompt
from server.sessions.document import Cursor, Document, Extent, Rewrite
from server.sessions.kept import Kept, Read
from server.sessions.session import OVERHEAD, Ask, EditSession, Maker
from server.sessions.sessions import Sessions
from server.sessions.versions import Revision

PIE = ReadingSpec("pie")
MOST = 2**20


def an_engine() -> Scripted:
    return Scripted(lambda prompt, _: Answer(prompt), ("text", "attention"))


async def never(prompt: Prompt) -> None:
    raise AssertionError("a sequence is kept")


async def a_session(
    sessions: Sessions, engine: Scripted, text: str, owner: str = ""
) -> EditSession:
    kept = await Kept.of(engine, PIE)
    return sessions.make(Maker(owner, "pocket"), Document.of(text), kept)


async def answered(session: EditSession) -> str:
    """Return a whole answer at the end of the text."""
    document = session.versions.document
    end = Cursor(0, len(document.texts[0]))
    asked = Sampling(max_tokens=5)
    running = session.ask(Ask(session.versions.version, document, end, asked, never))  # type: ignore[arg-type]
    return "".join([chunk.text async for chunk in running])


def put(session: EditSession, text: str) -> None:
    change = Rewrite(text, Extent(0, 0))
    session.apply(Revision(session.versions.version, changes=(change,)))


async def test_a_thousand_sessions_leave_memory_as_before() -> None:
    engine, sessions = an_engine(), Sessions(2**28, MOST)

    async def come_and_go(count: int) -> None:
        for number in range(count):
            session = await a_session(sessions, engine, "x y " * 100)
            put(session, "z")
            if number % 5 == 0:
                await answered(session)
            await sessions.drop(session)
        engine.works.clear()
        gc.collect()

    await come_and_go(50)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await come_and_go(1000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000  # bytes: a session that stayed would be 2,000
    assert (len(sessions), sessions.nbytes) == (0, 0)


async def test_caches_go_before_texts_and_the_least_used_first() -> None:
    engine = an_engine()
    sessions = Sessions(3 * OVERHEAD + 3200, MOST)
    first, second = [await a_session(sessions, engine, "word " * 200) for _ in range(2)]
    for session in (first, second):
        await answered(session)
    sessions.find(first.id, "")
    assert all(session.kept.nbytes for session in (first, second))
    third = await a_session(sessions, engine, "word")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (bool(first.kept.nbytes), bool(second.kept.nbytes)) == (True, False)
    assert len(sessions) == 3
    assert await answered(second)  # it is read again
    await a_session(sessions, engine, "x")
    assert len(sessions) == 3
    with pytest.raises(PlanError, match="evicted for newer ones"):
        sessions.find(second.id, "")
    assert [sessions.find(each.id, "") for each in (first, third)] == [first, third]
    assert sessions.nbytes <= 3 * OVERHEAD + 3200
    await sessions.close()


async def test_an_evicted_session_is_told_to_its_owner_alone() -> None:
    sessions = Sessions(OVERHEAD + 10, MOST)
    old = await a_session(sessions, an_engine(), "old", "ann")
    await a_session(sessions, an_engine(), "new", "bob")
    for owner, status in (("ann", 410), ("bob", 404), ("", 404)):
        with pytest.raises(PlanError) as caught:
            sessions.find(old.id, owner)
        assert caught.value.status == status


async def test_ids_cannot_be_guessed_and_do_not_repeat() -> None:
    sessions = Sessions(2**28, MOST)
    ids = {(await a_session(sessions, an_engine(), "")).id for _ in range(100)}
    assert len(ids) == 100
    assert min(map(len, ids)) >= 32


async def read(session: EditSession) -> Read:
    """Return what the engine has read once it has read the document as it is."""
    async with asyncio.timeout(5):
        while (found := session.kept.read) is None or found.version < session.versions.version:  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.005)
    return found


async def test_edits_are_brought_to_the_engine_after_a_pause_and_once() -> None:
    sessions = Sessions(2**28, MOST)
    session = await a_session(sessions, an_engine(), "a b")
    for letter in "wxyz":
        put(session, f"{letter} ")
    assert session.kept.read is None  # what is typed waits for no model
    assert await read(session) == Read(4, Edit(0, 0, 1))  # up to where it was typed
    await sessions.close()


async def test_what_was_read_to_the_end_stays_when_something_before_it_is_edited() -> None:
    sessions = Sessions(2**28, MOST)
    session = await a_session(sessions, an_engine(), "a b c d")
    await answered(session)
    put(session, "x ")
    assert await read(session) == Read(1, Edit(0, 4, 1, 4 / 5))
    await sessions.close()


@pytest.mark.parametrize(
    ("fill", "expected"), [(True, "one two"), (False, "one two three")], ids=["fill", "continue"]
)
async def test_who_types_is_thought_to_ask_there(fill: bool, expected: str) -> None:
    engine, sessions = an_engine(), Sessions(2**28, MOST)
    session = await a_session(sessions, engine, "one three four")
    document = session.versions.document
    ask = Ask(0, document, Cursor(0, 9), Sampling(max_tokens=1), never, fill=fill)  # type: ignore[arg-type]
    [_ async for _ in session.ask(ask)]
    session.apply(Revision(0, changes=(Rewrite("two ", Extent(4, 0)),)))
    await read(session)
    assert session.kept.length == len(expected.split())
    await sessions.close()


async def test_a_sequence_that_fails_is_opened_anew() -> None:
    engine, sessions = an_engine(), Sessions(2**28, MOST)
    session = await a_session(sessions, engine, "a b")
    assert await answered(session) == "a b"
    await session.forget()
    assert session.kept.nbytes == 0
    assert await answered(session) == "a b"
