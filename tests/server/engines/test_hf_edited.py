"""A sequence that is edited: exact where it says so, healed when idle; nobody waits for that."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest
from asking import MakeEngine, usage
from sequences import Widths, answer, drain, same

from server.engines.base import Edit, Session
from server.engines.hf import HfEngine
from server.engines.hf.session import HfSession
from server.errors import EngineError, PlanError
from server.job import ReadingSpec, Sampling
from server.prompt import Part, Prompt, TextPrompt, TokenPrompt
from server.stages.pie import Pie
from server.stages.pine import Pine

GREEDY = Sampling(max_tokens=6, temperature=0, ignore_eos=True, logprobs=2)
LONG = replace(GREEDY, max_tokens=60, logprobs=None)
EXACT, PAPER = Pie(exact=True).reading, Pie(heal_after=0, heal_read=0).reading
TEXT = tuple(range(40, 160))
READINGS = [pytest.param(EXACT, id="exact"), pytest.param(None, id="no stage")]


def stale(session: Session) -> tuple[int, ...]:
    assert isinstance(session, HfSession) and session._text is not None
    return session._text.reading.stale


async def healed(session: Session) -> None:
    """Wait until nothing is stale."""
    assert isinstance(session, HfSession) and session._text is not None
    end = time.monotonic() + 20
    while session._text.reading.stale or session._text.reading.due:
        assert time.monotonic() < end, "an idle worker heals"
        await asyncio.sleep(0.01)


def at_once(session: Session, *prompts: Prompt) -> Edit:
    """Edit it again and again with no idle moment between, and return the last edit."""
    assert isinstance(session, HfSession)
    with session._touched:
        return [session._edit(prompt) for prompt in prompts][-1]


async def whole(engine: HfEngine, prompt: Prompt) -> Session:
    session = await engine.open()
    await session.feed(prompt)
    return session


def edited(ids: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """Return ids with a random run of them replaced."""
    chance = random.Random(seed)
    first = chance.randrange(len(ids))
    last = min(first + chance.randrange(6), len(ids))
    return (*ids[:first], *(chance.randrange(40, 300) for _ in range(4)), *ids[last:])


@pytest.mark.parametrize("reading", READINGS)
async def test_an_exact_one_answers_as_the_text_would_be_answered(
    make_engine: MakeEngine, reading: ReadingSpec | None
) -> None:
    engine, ids = make_engine(), TEXT
    session = await engine.open(reading)
    for seed in range(6):
        edit = await session.edit(TokenPrompt(ids))
        assert edit.reused + edit.moved + edit.recomputed == len(ids) == session.length
        assert edit.stale_fraction == 0
        expected = await answer(await whole(engine, TokenPrompt(ids)), GREEDY)
        same(await answer(session, GREEDY), expected)
        ids = edited(ids, seed)


async def test_what_the_paper_leaves_is_stale_until_it_is_healed(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(PAPER)
    await session.edit(TokenPrompt(TEXT))
    await answer(session)
    new = (*TEXT[:30], 200, 201, 202, *TEXT[31:])
    edit = await session.edit(TokenPrompt(new))
    assert (edit.reused, edit.recomputed) == (30, 4)  # the last token is read again
    assert edit.stale_fraction == pytest.approx((len(new) - 34) / len(new))
    told = (await answer(session))[-1].notes["pie"]
    assert set(told) == {"edits", "stale_fraction"}
    await healed(session)
    await session.edit(TokenPrompt(new))
    await healed(session)
    same(await answer(session), await answer(await whole(engine, TokenPrompt(new))))


async def test_an_edit_at_the_end_is_reuse_of_the_prefix(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(Pie().reading)
    await session.edit(TokenPrompt(TEXT))
    await answer(session)
    edit = await session.edit(TokenPrompt((*TEXT, 200, 201)))
    assert (edit.reused, edit.moved, edit.recomputed) == (len(TEXT), 0, 2)
    assert not edit.stale_fraction
    other = await whole(engine, TokenPrompt((*TEXT, 200, 201)))
    same(await answer(session), await answer(other))


async def test_an_edit_that_is_undone_leaves_nothing_stale(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(PAPER)
    await session.edit(TokenPrompt(TEXT))
    await answer(session)
    other = TokenPrompt((*TEXT[:30], 200, *TEXT[30:]))
    assert at_once(session, other, TokenPrompt(TEXT)).stale_fraction == 0
    same(await answer(session), await answer(await whole(engine, TokenPrompt(TEXT))))


async def test_what_is_written_stays_where_the_text_goes_on_so(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(Pie().reading)
    await session.edit(TokenPrompt(TEXT))
    said = tuple(token.id for chunk in await answer(session) for token in chunk.tokens)
    edit = await session.edit(TokenPrompt((*TEXT, *said)))
    assert edit.recomputed == 1
    same(await answer(session), await answer(await whole(engine, TokenPrompt((*TEXT, *said)))))


@pytest.mark.parametrize("reading", [PAPER, Pie().reading, EXACT], ids=["paper", "recipe", "exact"])
async def test_marks_are_always_computed_again(
    make_engine: MakeEngine, reading: ReadingSpec
) -> None:
    engine = make_engine()
    session = await engine.open(reading)
    text = "The quick brown fox jumps over the lazy dog. " * 2
    await session.edit(TextPrompt((Part(text),), suffix=text))
    await answer(session)
    typed = TextPrompt((Part(f"{text} A B"),), suffix=text)
    assert isinstance(session, HfSession) and session._text is not None
    with session._touched:  # no idle moment comes between
        edit = session._edit(typed)
        due, ids = session._text.reading.due, session._text.ids
    marks = [index for index, token in enumerate(ids) if token in (3, 4)]
    assert set(marks) <= set(due) and len(marks) == 2 and edit.recomputed == len(due)


async def test_text_that_moves_across_a_mark_is_computed_again(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(Pie(heal_after=4).reading)
    first, moved, last = "The quick brown fox. " * 3, "A lazy dog jumps over it? ", "yes, no " * 9
    await session.edit(TextPrompt((Part(first),), suffix=moved + last))
    await answer(session)
    edit = await session.edit(TextPrompt((Part(first + moved),), suffix=last))
    assert edit.moved == 0 and edit.stale_fraction == 0


async def test_too_many_edits_are_computed_anew(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(Pie(heal_after=2, heal_read=0, max_edits=2).reading)
    ids, seen = TEXT, list[int]()
    await session.edit(TokenPrompt(ids))
    await answer(session)
    assert isinstance(session, HfSession)
    with session._touched:  # no idle moment comes between
        for place in (20, 40, 60):
            ids = (*ids[:place], 200 + place, *ids[place:])
            seen.append(session._edit(TokenPrompt(ids)).moved)
    assert seen[0] > 0 and seen[1] > 0 and seen[2] == 0
    same(await answer(session), await answer(await whole(engine, TokenPrompt(ids))))


async def test_fidelity_is_of_the_edited_text(make_engine: MakeEngine) -> None:
    session = await make_engine().open(PAPER)
    await session.edit(TokenPrompt(TEXT))
    await answer(session)
    new = TokenPrompt((*TEXT[:10], 250, 251, 252, *TEXT[12:]))
    rough = await session.fidelity(new)
    assert rough.kl > 1e-4 and rough.edits == 1 and 0.5 < rough.stale_fraction <= 1
    await healed(session)
    right = await session.fidelity(new)
    assert right.kl < 1e-6 and right.top1 and not right.stale_fraction


async def test_healing_gives_way(make_engine: MakeEngine) -> None:
    """A request that comes while a text is healed waits for one chunk of it, at most."""
    engine = make_engine()
    widths = Widths(engine)
    session = await engine.open(PAPER)
    await session.edit(TokenPrompt(TEXT))
    await answer(session)
    await session.edit(TokenPrompt((200, *TEXT[6:])))
    widths.held.clear()
    widths.go.clear()
    await session.edit(TokenPrompt((*TEXT[:10], 201, 202, *TEXT[10:])))
    await asyncio.to_thread(widths.held.wait, 10)
    widths.seen.clear()
    other = asyncio.create_task(
        answer(await whole(engine, TokenPrompt(tuple(range(50, 80)))), LONG)
    )
    await asyncio.sleep(0.1)
    widths.go.set()
    await other
    assert widths.seen.index(30) <= 1
    await healed(session)


async def test_it_is_not_edited_while_it_answers(make_engine: MakeEngine) -> None:
    session = await make_engine().open(Pie().reading)
    await session.edit(TokenPrompt(TEXT))
    stream = await session.generate(LONG)
    with pytest.raises(PlanError, match="must have finished its answer"):
        await session.edit(TokenPrompt(TEXT[:9]))
    await stream.aclose()
    await session.edit(TokenPrompt(TEXT[:9]))
    assert len(await answer(session)) > 0
    await session.close()
    with pytest.raises(PlanError, match="must be open"):
        await session.edit(TokenPrompt(TEXT))


async def test_a_text_that_does_not_fit_leaves_it_as_it_was(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open(Pie().reading)
    await session.edit(TokenPrompt(TEXT))
    with pytest.raises(PlanError):
        await session.edit(TokenPrompt(TEXT * 3))
    same(await answer(session), await answer(await whole(engine, TokenPrompt(TEXT))))


async def test_a_set_of_documents_is_not_edited(make_engine: MakeEngine) -> None:
    session = await make_engine().open(Pine().reading)
    with pytest.raises(PlanError, match="got stage 'pine'"):
        await session.edit(TokenPrompt(TEXT))


async def test_many_edit_at_once(make_engine: MakeEngine) -> None:
    """Sessions share forwards where they can, and none sees another's text."""
    engine = make_engine()

    async def edits(seed: int) -> None:
        session, ids = await engine.open(EXACT), tuple(range(40 + seed, 140 + seed))
        for step in range(3):
            await session.edit(TokenPrompt(ids))
            found = await answer(session)
            same(found, await answer(await whole(engine, TokenPrompt(ids))))
            ids = edited(ids, 10 * seed + step)
        await session.close()

    await asyncio.gather(*map(edits, range(4)))


async def test_usage_tells_what_was_at_hand(make_engine: MakeEngine) -> None:
    session = await make_engine().open(Pie(heal_after=0).reading)
    await session.edit(TokenPrompt(TEXT))
    await answer(session)
    await session.edit(TokenPrompt((*TEXT, 200)))
    told = usage(await drain(await session.generate(GREEDY)))
    assert told.prompt_tokens == len(TEXT) + 1 and told.cached_tokens >= len(TEXT) - 1


@pytest.mark.parametrize("ask", ["heal", "fidelity"])
async def test_what_failed_in_an_idle_moment_is_known_to_be_broken(
    make_engine: MakeEngine, ask: str
) -> None:
    engine = make_engine()
    widths = Widths(engine)
    session = await engine.open(PAPER)
    await session.edit(TokenPrompt(TEXT))
    await answer(session)
    await healed(session)
    widths.fail = True
    changed = TokenPrompt((*TEXT[:10], 201, 202, *TEXT[10:]))
    if ask == "heal":
        await session.edit(changed)
        assert isinstance(session, HfSession) and session._context is not None
        async with asyncio.timeout(10):
            while not session._context.failed:  # noqa: ASYNC110  there is no event
                await asyncio.sleep(0.005)
    else:
        with pytest.raises(EngineError):
            await session.fidelity(changed)
    widths.fail = False
    with pytest.raises(EngineError, match="must be whole"):
        await session.edit(TokenPrompt(TEXT))
    other = await engine.open(PAPER)
    await other.edit(TokenPrompt(TEXT))
    assert len(await answer(other)) > 0


async def test_what_was_answered_is_healed_with_the_rest(make_engine: MakeEngine) -> None:
    """An answer to a stale text is stale itself."""
    engine = make_engine()
    session = await engine.open(PAPER)
    await session.edit(TokenPrompt(TEXT))
    await answer(session)
    for place in (10, 20, 30):
        at_once(session, TokenPrompt((*TEXT[:place], 200, 201, *TEXT[place:])))
        said = tuple(token.id for chunk in await answer(session) for token in chunk.tokens)
        await healed(session)
        text = (*TEXT[:place], 200, 201, *TEXT[place:], *said)
        await session.edit(TokenPrompt(text))
        same(await answer(session), await answer(await whole(engine, TokenPrompt(text))))


async def test_who_is_cancelled_while_he_waits_leaves_it_to_others(make_engine: MakeEngine) -> None:
    session = await make_engine().open(Pie().reading)
    await session.edit(TokenPrompt(TEXT))
    await healed(session)
    assert isinstance(session, HfSession)
    with session._touched:  # as the worker does while it heals
        waiting = asyncio.create_task(session.edit(TokenPrompt(TEXT[:50])))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(10):
        await session.edit(TokenPrompt(TEXT[:60]))
        assert session.length == 60
        assert len(await answer(session)) > 0
