"""A sequence that stays: two routes to every answer, and nothing is read twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from asking import MakeEngine, Through, tokens, usage
from sequences import GREEDY, Widths, answer, drain, same, scored
from specs import PINE

from kvedit.plain import PlainReading
from server.chunk import Chunk
from server.errors import EngineError, PlanError
from server.job import ReadingSpec, Work
from server.prompt import Part, Prompt, TextPrompt, TokenPrompt

ENDLESS = replace(GREEDY, max_tokens=150, logprobs=None)
MORE = TokenPrompt((70, 80, 90, 100, 75))
DOCUMENTS = (Part("The fox is red.", group="d"), Part("A dog, lazy.", group="d"))
SET = TextPrompt((Part("Read: "), *DOCUMENTS, Part("Who?")))


def plainly(through: Through) -> ReadingSpec:
    return replace(through(lambda segments, shelf: PlainReading()), cut="whole")


@pytest.mark.parametrize("read", [False, True], ids=["stock", "plain reading"])
async def test_fed_twice_it_answers_as_the_whole_text_would_be_answered(
    make_engine: MakeEngine, through: Through, read: bool
) -> None:
    engine, spec = make_engine(), plainly(through) if read else None
    widths = Widths(engine)
    first = TokenPrompt(tuple(range(60, 90)))
    session = await engine.open(spec)
    assert (await session.feed(first), session.length) == (30, 30)
    begun = await answer(session)
    assert widths.seen == [30] + [1] * 7
    assert session.length == 38
    del widths.seen[:]
    assert (await session.feed(MORE), session.length) == (5, 43)
    ended = await answer(session)
    # the first answer's last token has been read by nobody yet
    assert widths.seen == [1 + 5] + [1] * 7
    used = usage(ended)
    assert (used.prompt_tokens, used.cached_tokens, used.completion_tokens) == (43, 37, 8)
    await session.close()
    whole = TokenPrompt((*first.ids, *tokens(begun), *MORE.ids))
    for prompt, chunks in ((first, begun), (whole, ended)):
        same(chunks, await drain(await engine.generate(Work((prompt,), GREEDY, spec))))


async def test_a_set_is_fed_first_and_more_text_after_it(make_engine: MakeEngine) -> None:
    """The second route feeds the answer as text that follows the set: all of it is suffix."""
    engine = make_engine()
    widths = Widths(engine)
    session = await engine.open(PINE)
    length = await session.feed(SET)
    begun = await answer(session)
    same(begun, await drain(await engine.generate(Work((SET,), GREEDY, PINE))))
    del widths.seen[:]
    await session.feed(MORE)
    ended = await answer(session)
    assert widths.seen == [1 + 5] + [1] * 7
    assert usage(ended).cached_tokens == length + 7
    assert ended[-1].notes["pine"]["documents"] == 2
    other = await engine.open(PINE)
    await other.feed(SET)
    await other.feed(TokenPrompt((*tokens(begun), *MORE.ids)))
    same(ended, await answer(other))


async def test_generate_is_open_feed_generate_close(make_engine: MakeEngine) -> None:
    engine = make_engine()
    prompts: list[tuple[Prompt, ReadingSpec | None]] = [
        (TextPrompt((Part("The quick"),)), None),
        (SET, None),
        (SET, PINE),
    ]
    for prompt, spec in prompts:
        session = await engine.open(spec)
        await session.feed(prompt)
        chunks = await answer(session)
        await session.close()
        assert chunks == await drain(await engine.generate(Work((prompt,), GREEDY, spec)))


async def test_what_follows_is_not_opened_again(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open()
    texts = [TextPrompt((Part(text),)) for text in ("The quick ", "brown fox")]
    lengths = [await session.feed(text) for text in texts]
    alone = await engine.open()
    assert lengths == [await alone.feed(texts[0]), await (await engine.open()).feed(texts[1]) - 1]
    ids = [engine._preparation.encoder.encode(text).ids for text in texts]
    assert ids[1][0] == 0
    whole = TokenPrompt((*ids[0], *ids[1][1:]))
    same(await answer(session), await drain(await engine.generate(Work((whole,), GREEDY))))


@pytest.mark.parametrize("spec", [None, PINE], ids=["stock", "pine"])
async def test_what_does_not_fit_leaves_it_as_it_was(
    make_engine: MakeEngine, spec: ReadingSpec | None
) -> None:
    engine = make_engine()
    session = await engine.open(spec)
    with pytest.raises(PlanError, match="maximum context length is 256"):
        await session.feed(TextPrompt((Part("fox " * 300, group="d"),)))
    assert session.length == 0
    length = await session.feed(SET)
    for too_long in (TokenPrompt((5,) * (257 - length)), TokenPrompt(())):
        with pytest.raises(PlanError):
            await session.feed(too_long)
    with pytest.raises(PlanError, match="maximum context length is 256"):
        await session.generate(replace(GREEDY, max_tokens=257 - length))
    with pytest.raises(PlanError, match="label must be one token"):
        await session.generate(replace(GREEDY, labels=("Abracadabra",)))
    assert session.length == length
    same(await answer(session), await drain(await engine.generate(Work((SET,), GREEDY, spec))))


async def test_what_cannot_be_cut_is_not_added(make_engine: MakeEngine) -> None:
    session = await make_engine().open(PINE)
    with pytest.raises(PlanError, match="must have one set of documents"):
        await session.feed(TextPrompt((Part("no set"),)))
    assert session.length == 0


async def test_it_answers_what_is_new_and_once(make_engine: MakeEngine) -> None:
    session = await make_engine().open()
    with pytest.raises(PlanError, match="must be fed before it answers, got nothing"):
        await session.generate(GREEDY)
    await session.feed(MORE)
    for numbers in ({"n": 2}, {"echo": True}):
        with pytest.raises(PlanError, match="n and echo"):
            await session.generate(replace(GREEDY, **numbers))
    assert scored(await answer(session, replace(GREEDY, max_tokens=0))) == []
    with pytest.raises(PlanError, match="got nothing new"):
        await session.generate(GREEDY)
    await session.feed(MORE)
    stream = await session.generate(ENDLESS)
    for disturb in (session.feed(MORE), session.generate(GREEDY)):
        with pytest.raises(PlanError, match="must have finished its answer"):
            await disturb
    await stream.aclose()


async def test_one_that_has_failed_does_not_go_on(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    widths, session = Widths(engine), await engine.open()
    await session.feed(MORE)
    await answer(session)
    await session.feed(MORE)
    widths.fail = True
    with pytest.raises(EngineError, match="MemoryError"):
        await answer(session)
    widths.fail = False
    for go_on in (session.feed(MORE), session.generate(GREEDY)):
        with pytest.raises(EngineError, match="must be whole, got one that has failed"):
            await go_on
    assert scored(await drain(await engine.generate(Work((MORE,), GREEDY))))
    assert "planted" in caplog.text


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "in a shared forward"])
async def test_one_whose_answer_was_cut_off_goes_on_with_what_it_read(
    make_engine: MakeEngine, shared: bool
) -> None:
    engine = make_engine()
    widths, session = Widths(engine), await engine.open()
    await session.feed(MORE)
    others = [await engine.generate(Work((MORE,), ENDLESS))] if shared else []
    stream = await session.generate(ENDLESS)
    seen = [token for chunk in [await anext(stream)] for token in chunk.tokens]
    assert seen
    widths.go.clear()
    widths.held.clear()
    await asyncio.to_thread(widths.held.wait, 20)
    await stream.aclose()  # in the middle of a forward
    feeding = asyncio.ensure_future(session.feed(MORE))
    await asyncio.sleep(0.05)
    assert not feeding.done()
    widths.go.set()
    assert await asyncio.wait_for(feeding, 20) == 5
    assert session._context is not None
    ids = tuple(session._context.ids)
    assert session.length == len(ids) < 5 + 150 + 5
    ended = await answer(session)
    for other in others:
        await other.aclose()
    same(ended, await drain(await engine.generate(Work((TokenPrompt(ids),), GREEDY))))


async def test_sessions_and_requests_run_side_by_side(make_engine: MakeEngine) -> None:
    engine = make_engine()
    starts: dict[str, tuple[Prompt, ReadingSpec | None]] = {
        "stock": (TokenPrompt(tuple(range(60, 90))), None),
        "pine": (SET, PINE),
    }

    async def talk(name: str) -> list[list[Chunk]]:
        prompt, spec = starts[name]
        session, said = await engine.open(spec), []
        for fed in (prompt, MORE, TokenPrompt((65, 66))):
            await session.feed(fed)
            said.append(await answer(session))
        await session.close()
        return said

    async def load() -> None:
        while True:
            await drain(await engine.generate(Work((SET,), replace(GREEDY, max_tokens=30))))

    alone = [await talk(name) for name in starts]
    widths = Widths(engine)
    busy = [asyncio.ensure_future(load()) for _ in range(2)]
    await asyncio.to_thread(widths.held.wait, 20)
    together = await asyncio.gather(*map(talk, (*starts, *starts)))
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    assert {4, 5, 6} & set(widths.seen)  # tokens of several in one forward
    for said, expected in zip(together, alone * 2, strict=True):
        for chunks, others in zip(said, expected, strict=True):
            same(chunks, others)
            assert usage(chunks).cached_tokens == usage(others).cached_tokens


async def test_a_closed_one_refuses_and_stops_its_work(make_engine: MakeEngine) -> None:
    engine = make_engine()
    session = await engine.open()
    await session.feed(MORE)
    stream = await session.generate(ENDLESS)
    await anext(stream)
    await session.close()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert session.length == 0
    for go_on in (session.feed(MORE), session.generate(GREEDY)):
        with pytest.raises(PlanError, match="must be open, got one that was closed"):
            await go_on
    await session.close()
    other = await engine.open()
    await engine.close()
    with pytest.raises(EngineError, match="must be running"):
        await other.feed(MORE)


async def test_only_what_suits_the_model_is_opened(make_engine: MakeEngine) -> None:
    with pytest.raises(PlanError, match="reading must be one that this engine knows"):
        await make_engine().open(ReadingSpec("unheard"))
