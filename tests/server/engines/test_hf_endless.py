"""A sequence without end that becomes its next turn: it reads the rest alone, and says the same."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from asking import MakeEngine, tokens, usage
from sequences import GREEDY, Widths, answer, drain, same

from server.chunk import Chunk
from server.engines.base import Edit, Session
from server.engines.hf import HfEngine
from server.errors import EngineError
from server.job import ReadingSpec, Work
from server.prompt import TokenPrompt

WINDOW, SLACK = 32, 24
NUMBERS = (("first", 4), ("window", WINDOW), ("cap", WINDOW))
FRESH = ReadingSpec("lm-infinite", NUMBERS)
KEPT = ReadingSpec("lm-infinite", (*NUMBERS, ("slack", SLACK)))
LONG = replace(GREEDY, max_tokens=300, logprobs=None)


def some(count: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(5, 300), k=count))


async def fresh(engine: HfEngine, ids: tuple[int, ...]) -> list[Chunk]:
    return await drain(await engine.generate(Work((TokenPrompt(ids),), GREEDY, FRESH)))


async def becomes(session: Session, engine: HfEngine, ids: tuple[int, ...]) -> tuple[Edit, Chunk]:
    """Make it a prompt, and see that it answers as a new one does; return the edit, the last."""
    foreseen = await session.reusable(TokenPrompt(ids))
    edit = await session.edit(TokenPrompt(ids))
    assert foreseen <= edit.reused  # it may still have been at work
    assert (edit.moved, edit.recomputed) == (0, len(ids) - edit.reused)
    found = await answer(session)
    same(found, await fresh(engine, ids))
    used = usage(found)
    assert (used.prompt_tokens, used.cached_tokens) == (len(ids), edit.reused)
    return edit, found[-1]


async def test_turns_far_beyond_window_and_context_read_what_is_new_alone(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    widths, session = Widths(engine), await engine.open(KEPT)
    ids = some(40)
    for turn in range(12):
        del widths.seen[:]
        edit = await session.edit(TokenPrompt(ids))
        found = await answer(session)
        # what was answered last, nobody had read yet
        assert edit.reused == (0 if not turn else len(ids) - 20 - 1)
        assert widths.seen == [len(ids) - edit.reused] + [1] * 7
        assert usage(found).cached_tokens == edit.reused
        same(found, await fresh(engine, ids))
        hidden = len(ids) + 7 - WINDOW - 4
        assert found[-1].notes["lm-infinite"]["out_of_sight"] == hidden
        ids = (*ids, *tokens(found), *some(20, seed=turn))
    assert len(ids) > 256 + 3 * WINDOW  # the model has learned 256
    assert session.nbytes <= 4 * (WINDOW + SLACK) * engine._preparation.token_bytes
    await session.close()


async def test_an_answer_that_is_written_otherwise_is_gone_back_on(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(KEPT)
    ids = some(300)
    await becomes(session, engine, ids)
    other = (*ids, *some(9, seed=1))
    edit, _ = await becomes(session, engine, other)
    assert edit.reused == 300
    # down to where the slack ends, and not one token further
    edit, _ = await becomes(session, engine, (*other[:-6], *some(3, seed=2)))
    assert edit.reused == len(other) - 6
    assert (await becomes(session, engine, (*other[:270], *some(3, seed=3))))[0].reused == 0


async def test_a_prompt_that_it_has_read_whole_is_read_again_from_its_last_token(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    session = await engine.open(KEPT)
    ids = some(200)
    await becomes(session, engine, ids)
    assert (await becomes(session, engine, ids))[0].reused == 199
    assert (await becomes(session, engine, ids[:190]))[0].reused == 189


async def test_short_texts_go_back_to_any_place(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(KEPT)
    await becomes(session, engine, some(40))
    assert (await becomes(session, engine, (*some(2), 7, 8)))[0].reused == 2
    assert (await becomes(session, engine, (9, 9)))[0].reused == 0


@pytest.mark.parametrize("read", [0, 3], ids=["while its prompt is read", "while it answers"])
async def test_who_hangs_up_leaves_what_was_read(make_engine: MakeEngine, read: int) -> None:
    engine = make_engine()
    widths, session = Widths(engine), await engine.open(KEPT)
    ids = some(1500)  # three pieces
    await session.edit(TokenPrompt(ids))
    widths.go.clear()
    stream = await session.generate(LONG)
    await asyncio.to_thread(widths.held.wait, 20)
    if read:
        widths.go.set()
        for _ in range(read):
            await anext(stream)
    await getattr(stream, "aclose")()  # noqa: B009  an iterator need not have it
    widths.go.set()
    edit, _ = await becomes(session, engine, (*ids, *some(5, seed=1)))
    assert edit.reused == (1500 if read else 512)
    await session.close()
    assert await session.reusable(TokenPrompt(ids)) == 0


async def test_one_that_has_failed_says_so(make_engine: MakeEngine) -> None:
    engine = make_engine()
    widths, session = Widths(engine), await engine.open(KEPT)
    await session.edit(TokenPrompt(some(50)))
    widths.fail = True
    with pytest.raises(EngineError):
        await answer(session)
    widths.fail = False
    assert await session.reusable(TokenPrompt(some(50))) == 0
    with pytest.raises(EngineError, match="one that has failed"):
        await session.edit(TokenPrompt(some(50)))


async def test_two_sequences_share_their_forwards(make_engine: MakeEngine) -> None:
    engine = make_engine()
    ids = [some(100, seed) for seed in range(3)]
    sessions = [await engine.open(KEPT) for _ in ids]
    for turn in range(3):
        for session, each in zip(sessions, ids, strict=True):
            await session.edit(TokenPrompt(each))
        found = await asyncio.gather(*map(answer, sessions))
        for one, each in zip(found, ids, strict=True):
            same(one, await fresh(engine, each))
        ids = [(*e, *tokens(f), *some(9, turn)) for e, f in zip(ids, found, strict=True)]
