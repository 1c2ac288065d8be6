"""One sequence for each client and file: found again, bounded, and in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chunk import Chunk
from server.engines.base import Ability, Edit, Session
from server.engines.scripted import Answer, Scripted
from server.errors import EngineError, PlanError
from server.job import ReadingSpec, Sampling, Work
from server.prompt import FillPrompt, Part, Prompt, TextPrompt
from server.sessions.files import File
from server.sessions.implicit import Implicit

ABILITIES: tuple[Ability, ...] = ("text", "logprobs", "attention")
ONE = " ".join(f"one{number}" for number in range(50))
OTHER = " ".join(f"other{number}" for number in range(50))


def engine() -> Scripted:
    return Scripted(lambda prompt, sampling: Answer("yes it is"), ABILITIES)


def kept(on: Scripted, **given: Any) -> Implicit:
    return Implicit(on, **{"most": 4, "budget": 1 << 20, "idle": 60.0, **given})


def work(prefix: str, suffix: str = "", name: str = "", **numbers: Any) -> Work:
    return Work((FillPrompt(prefix, suffix, name=name),), Sampling(**numbers))


async def ask(sequences: Implicit, asked: Work, client: str = "me") -> dict[str, Any] | None:
    """Return what the answer says of the edit, or None where no sequence stayed for it."""
    chunks = [chunk async for chunk in await sequences.of(client).generate(asked)]
    assert "".join(chunk.text for chunk in chunks) == "yes it is"
    return chunks[-1].notes.get("edit")


async def test_the_next_request_for_a_file_is_an_edit_of_the_one_before() -> None:
    sequences = kept(engine())
    first = await ask(sequences, work(ONE, "end"))
    second = await ask(sequences, work(f"{ONE} more", "end"))
    assert first == {"reused": 0, "moved": 0, "recomputed": 50, "stale_fraction": 0.0}
    assert second is not None and (second["reused"], second["recomputed"]) == (50, 1)
    assert len(sequences) == 1


async def test_another_file_and_another_client_have_their_own() -> None:
    sequences = kept(engine())
    for text, client in ((ONE, "me"), (OTHER, "me"), (ONE, "you")):
        edit = await ask(sequences, work(text), client)
        assert edit is not None and edit["reused"] == 0
    assert len(sequences) == 3
    again = await ask(sequences, work(f"{OTHER} x"))
    assert again is not None and again["reused"] == 50


async def test_a_name_says_more_than_likeness() -> None:
    sequences = kept(engine())
    await ask(sequences, work(ONE, name="a"))
    assert len(sequences) == 1
    await ask(sequences, work(ONE, name="b"))
    assert len(sequences) == 2
    await ask(sequences, work(OTHER, name="a"))
    assert len(sequences) == 2


async def test_a_warm_up_is_of_use_to_the_next_file() -> None:
    sequences = kept(engine())
    await ask(sequences, work(""))
    await ask(sequences, work(ONE))
    assert len(sequences) == 1
    await ask(sequences, work(""))
    assert len(sequences) == 2


async def test_of_too_many_the_least_used_goes() -> None:
    sequences = kept(engine(), most=2)
    await ask(sequences, work("a a a", name="a"))
    await ask(sequences, work("b b b", name="b"))
    await ask(sequences, work("a a a", name="a"))
    await ask(sequences, work("c c c", name="c"))
    assert len(sequences) == 2
    edit = await ask(sequences, work("a a a", name="a"))
    assert edit is not None and edit["reused"] == 3


async def test_bytes_are_bounded() -> None:
    sequences = kept(engine(), budget=300)
    await ask(sequences, work(ONE[:150], name="a"))
    assert len(sequences) == 1
    await ask(sequences, work(OTHER[:200], name="b"))
    assert len(sequences) == 1
    assert sequences.nbytes <= 300
    await ask(sequences, work(f"{ONE} {ONE}", name="c"))
    assert (len(sequences), sequences.nbytes) == (0, 0)


async def test_who_is_not_used_is_dropped_and_so_are_all_at_the_end() -> None:
    sequences = kept(engine(), idle=0.05)
    await ask(sequences, work(ONE))
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not len(sequences):
            break
    assert not len(sequences)
    await ask(sequences, work(ONE))
    assert len(sequences) == 1
    await sequences.close()
    assert not len(sequences)
    assert await ask(sequences, work(ONE)) is None


async def test_a_busy_sequence_makes_nobody_wait() -> None:
    sequences = kept(engine())
    stream = await sequences.of("me").generate(work(ONE))
    await anext(stream)
    assert await ask(sequences, work(f"{ONE} x")) is None
    close: Callable[[], Any] = getattr(stream, "aclose")  # noqa: B009  an iterator need not have it
    await close()
    edit = await ask(sequences, work(f"{ONE} x"))
    assert edit is not None and edit["reused"] == 50


async def test_an_answer_that_nobody_read_lets_its_sequence_go() -> None:
    on = engine()
    sequences = kept(on)
    stream = await sequences.of("me").generate(work(ONE))
    await getattr(stream, "aclose")()  # noqa: B009
    assert on.running == 0
    assert await ask(sequences, work(ONE)) is not None


@pytest.mark.parametrize(
    "asked",
    [
        Work((TextPrompt((Part("a"),)),), Sampling()),
        Work((FillPrompt("a", "b"), FillPrompt("a", "b")), Sampling()),
        work("a", n=2),
        work("a", echo=True),
        Work((FillPrompt("a", "b"),), Sampling(), ReadingSpec("lm_infinite")),
        Work((FillPrompt("a", "b"),), Sampling(), deterministic=True),
    ],
)
async def test_other_work_goes_to_the_engine(asked: Work) -> None:
    sequences = kept(engine())
    async for chunk in await sequences.of("me").generate(asked):
        assert "edit" not in chunk.notes
    assert not len(sequences)


async def test_a_suffix_of_completions_stays_too() -> None:
    sequences = kept(engine())
    asked = Work((TextPrompt((Part(ONE),), "end"),), Sampling())
    await ask(sequences, asked)
    edit = await ask(sequences, asked)
    assert edit is not None and edit["reused"] == 50


async def test_an_engine_that_cannot_edit_and_none_wanted() -> None:
    for sequences in (
        kept(Scripted(lambda prompt, sampling: Answer("yes it is"))),
        kept(engine(), most=0),
    ):
        assert await ask(sequences, work(ONE)) is None
        assert not len(sequences)


class Failing:
    """A session whose next edit fails."""

    def __init__(self, session: Session, fault: BaseException) -> None:
        self._session = session
        self._fault: BaseException | None = fault
        self.closed = False

    async def edit(self, prompt: Prompt, *, exact: bool = False) -> Edit:
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        return await self._session.edit(prompt, exact=exact)

    async def generate(self, sampling: Sampling) -> AsyncIterator[Chunk]:
        return await self._session.generate(sampling)

    async def close(self) -> None:
        self.closed = True

    @property
    def nbytes(self) -> int:
        return self._session.nbytes


async def failing(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> tuple[Implicit, Failing]:
    on = engine()
    session = Failing(await on.open(ReadingSpec("pie")), fault)

    async def opened(reading: ReadingSpec | None = None) -> Failing:
        return session

    monkeypatch.setattr(on, "open", opened)
    return kept(on), session


async def test_a_sequence_that_has_failed_is_dropped_and_the_request_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sequences, session = await failing(monkeypatch, EngineError("it must work, got a fault; go"))
    assert await ask(sequences, work(ONE)) is None
    assert session.closed and not len(sequences)


async def test_a_refusal_leaves_the_sequence_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, session = await failing(monkeypatch, PlanError("it must fit, got more; cut it"))
    with pytest.raises(PlanError):
        await sequences.of("me").generate(work(ONE))
    assert not session.closed
    assert await ask(sequences, work(ONE)) is not None


async def test_what_was_interrupted_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, session = await failing(monkeypatch, asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await sequences.of("me").generate(work(ONE))
    assert session.closed and not len(sequences)


letters = st.text("ab\n", max_size=12)


@given(letters, letters)
def test_likeness_is_a_share_and_whole_for_equal_texts(one: str, other: str) -> None:
    likeness = File(one).likeness(File(other))
    assert 0 <= likeness <= 1
    assert likeness == File(other).likeness(File(one))
    assert File(one).likeness(File(one)) == 1


@given(letters, letters, letters)
def test_what_is_typed_alone_is_unlike(head: str, typed: str, tail: str) -> None:
    likeness = File(head + tail).likeness(File(head + typed + tail))
    assert likeness >= len(head + tail) / max(len(head + typed + tail), 1) - 1e-9
