"""Sequences that share forwards, and deterministic ones that never do."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from asking import MakeEngine, Through, usage
from models import tiny_llama, tiny_qwen2
from specs import PINE
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kvedit.plain import PlainReading
from kvedit.reading import Layer, between
from kvedit.sight import Rows
from server.chunk import Chunk, Scored
from server.engines.hf import HfEngine
from server.errors import EngineError, PlanError
from server.job import Sampling, Work
from server.prompt import Part, TextPrompt

TOKENS = 24
GREEDY = Sampling(max_tokens=TOKENS, temperature=0, ignore_eos=True, logprobs=2)
ENDLESS = replace(GREEDY, max_tokens=180, logprobs=None)
PROMPTS = ("fox", "The quick brown fox jumps over the lazy dog. " * 3, "A B C D, yes or no?", "é")


def plain(text: str, sampling: Sampling = GREEDY, **changes: Any) -> Work:
    return Work((TextPrompt((Part(text),)),), sampling, **changes)


def pine(*texts: str, sampling: Sampling = GREEDY, **changes: Any) -> Work:
    documents = tuple(Part(text, group="d") for text in texts)
    prompt = TextPrompt((Part("Read: "), *documents, Part("Who?")))
    return Work((prompt,), sampling, PINE, **changes)


MIXED = [
    *(plain(text) for text in PROMPTS),
    pine("The fox is red.", "The dog is lazy."),
    pine("A.", "The quick brown fox jumps over the lazy dog, naïve.", "No.", "yes or no?"),
]


async def drain(stream: AsyncIterable[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]


def scored(chunks: list[Chunk]) -> list[Scored]:
    return [token for chunk in chunks for token in chunk.tokens]


class Widths:
    """Records how many tokens each forward read; holds the forwards back while `go` is clear."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.go = threading.Event()
        self.seen: list[int] = []
        model.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.go.wait(10)
        self.seen.append(kwargs["input_ids"].shape[1])


Busy = tuple[HfEngine, Widths]


async def at_once(engine: HfEngine, works: list[Work]) -> list[list[Chunk]]:
    streams = [await engine.generate(work) for work in works]
    return await asyncio.gather(*map(drain, streams))


async def one_by_one(engine: HfEngine, works: list[Work]) -> list[list[Chunk]]:
    return [await drain(await engine.generate(work)) for work in works]


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
async def test_a_mix_of_requests_is_answered_as_one_by_one(
    make: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = HfEngine(make(vocab_size=len(tokenizer)), tokenizer, name="tiny")
    widths = Widths(engine.model)
    widths.go.set()
    alone = await one_by_one(engine, MIXED)
    apart = len(widths.seen)
    together = await at_once(engine, MIXED)
    await engine.close()
    assert len(widths.seen) - apart < 2.5 * TOKENS < apart / 2
    for first, second in zip(alone, together, strict=True):
        pairs = list(zip(scored(first), scored(second), strict=True))
        assert len(pairs) == TOKENS
        for one, other in pairs:
            assert one.id == other.id
            assert one.logprob == pytest.approx(other.logprob, abs=2e-5)
        assert first[-1].notes == second[-1].notes
        assert first[-1].usage == second[-1].usage


async def test_sixteen_streams_take_a_sixteenth_of_the_forwards(make_engine: MakeEngine) -> None:
    engine = make_engine()
    widths = Widths(engine.model)
    streams = [await engine.generate(plain(f"fox {i}")) for i in range(16)]
    widths.go.set()
    await asyncio.gather(*map(drain, streams))
    assert len(widths.seen) <= TOKENS + 16
    assert widths.seen.count(16) >= TOKENS - 2


async def test_long_prompts_are_not_packed(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engines.hf.worker.PROMPT_TOKENS", 60)
    engine = make_engine()
    widths = Widths(engine.model)
    long = plain(PROMPTS[1], replace(GREEDY, max_tokens=1))
    streams = [await engine.generate(work) for work in (plain("fox"), long, long, long)]
    widths.go.set()
    chunks = await asyncio.gather(*map(drain, streams))
    length = usage(chunks[1]).prompt_tokens
    assert 30 < length < 60
    wide = [width for width in widths.seen if width >= length]
    assert len(wide) == 3
    assert max(wide) < 2 * length  # beside the first one's prompt or token


async def test_a_newcomer_joins_the_next_forward(make_engine: MakeEngine) -> None:
    engine = make_engine()
    widths = Widths(engine.model)
    widths.go.set()
    running = await engine.generate(plain("fox", ENDLESS))
    await anext(running)
    await drain(await engine.generate(plain("dog", replace(GREEDY, logprobs=None))))
    await drain(running)
    assert len(widths.seen) == 180  # the newcomer took no forward of its own
    assert widths.seen.count(2) == TOKENS - 1


async def test_who_comes_at_once_begins_in_one_forward(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engines.hf.worker.PATIENCE", 60.0)
    engine = make_engine()
    widths = Widths(engine.model)
    widths.go.set()
    works = [replace(work, sampling=replace(GREEDY, max_tokens=1)) for work in MIXED]
    impossible = plain("fox", replace(GREEDY, max_tokens=10**6))
    tasks = [asyncio.ensure_future(engine.generate(work)) for work in (*works, impossible)]
    *_, refusal = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(refusal, PlanError)
    streams = [task.result() for task in tasks[:-1]]
    chunks = await asyncio.wait_for(asyncio.gather(*map(drain, streams)), 20)
    assert widths.seen == [sum(usage(each).prompt_tokens for each in chunks)]


async def test_nobody_waits_for_a_request_that_is_refused(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engines.hf.worker.PATIENCE", 60.0)
    engine = make_engine()
    widths = Widths(engine.model)
    widths.go.set()
    with engine._worker.expecting():
        stream = await engine.generate(plain("fox"))
        await asyncio.sleep(0.1)
        assert not widths.seen
    assert len(scored(await asyncio.wait_for(drain(stream), 20))) == TOKENS


async def test_patience_ends(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.engines.hf.worker.PATIENCE", 0.01)
    engine = make_engine()
    with engine._worker.expecting():  # one whose planning takes for ever
        chunks = await asyncio.wait_for(drain(await engine.generate(plain("fox"))), 5)
    assert len(scored(chunks)) == TOKENS


async def test_one_that_leaves_or_fails_disturbs_nobody(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture, through: Through
) -> None:
    class Broken(PlainReading):
        def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
            if key.shape[2] == 1 and layer.index == 1:
                raise RuntimeError("planted")
            return super().rows(layer, key, value)

    engine = make_engine()
    alone = await one_by_one(engine, MIXED)
    widths = Widths(engine.model)
    left = await engine.generate(plain("fox", ENDLESS))
    bad = await engine.generate(
        replace(pine("dog", "fox"), reading=through(lambda segments, shelf: Broken()))
    )
    streams = [await engine.generate(work) for work in MIXED]
    widths.go.set()
    tasks = [asyncio.ensure_future(drain(stream)) for stream in streams]
    await anext(left)
    await left.aclose()
    with pytest.raises(EngineError, match="RuntimeError"):
        await drain(bad)
    assert "planted" in caplog.text
    for first, second in zip(alone, await asyncio.gather(*tasks), strict=True):
        assert [token.id for token in scored(first)] == [token.id for token in scored(second)]


async def test_a_forward_that_fails_as_a_whole_ends_its_members_and_no_more(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    broken = threading.Event()

    def fail(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if broken.is_set() and kwargs["input_ids"].shape[1] == 2:
            raise MemoryError("planted")

    engine.model.register_forward_pre_hook(fail, with_kwargs=True)
    streams = [await engine.generate(plain(text, ENDLESS)) for text in ("fox", "dog")]
    for stream in streams:
        await anext(stream)
    broken.set()
    for stream in streams:
        with pytest.raises(EngineError, match="MemoryError"):
            await drain(stream)
    assert (await drain(await engine.generate(plain("fox"))))[-1].finish_reason == "length"


async def test_where_the_door_is_closed_plain_requests_go_one_by_one(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = tiny_llama(
        vocab_size=len(tokenizer), rope_parameters={"rope_type": "dynamic", "factor": 2.0}
    )
    engine = HfEngine(model, tokenizer, name="tiny")
    assert "attention" not in engine.offers
    widths = Widths(model)
    widths.go.set()
    alone = await one_by_one(engine, MIXED[:4])
    together = await at_once(engine, MIXED[:4])
    await engine.close()
    assert set(widths.seen[-TOKENS:]) == {1}
    assert [scored(chunks) for chunks in alone] == [scored(chunks) for chunks in together]


@pytest.fixture
async def busy(make_engine: MakeEngine) -> AsyncIterator[Busy]:
    """Yield an engine with plain and pine streams that run on, and the widths of its forwards."""
    engine = make_engine()
    widths = Widths(engine.model)
    widths.go.set()

    async def load(work: Work) -> None:
        while True:
            await drain(await engine.generate(work))

    works = [
        plain("fox", ENDLESS),
        plain(PROMPTS[1], replace(ENDLESS, max_tokens=40)),
        pine("A.", "yes or no?", sampling=replace(ENDLESS, max_tokens=30)),
    ]
    tasks = [asyncio.ensure_future(load(work)) for work in works]
    yield engine, widths
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


JUDGED = [
    plain(PROMPTS[1], replace(GREEDY, logprobs=400)),
    plain("fox", replace(GREEDY, logprobs=400, temperature=1.0, seed=4, n=2)),
    pine("The fox is red.", "The dog is lazy.", "No.", sampling=replace(GREEDY, logprobs=400)),
]


@pytest.mark.parametrize("work", JUDGED, ids=["plain", "choices", "pine"])
async def test_deterministic_requests_have_the_same_bits_under_load(
    busy: Busy, make_engine: MakeEngine, work: Work
) -> None:
    engine, widths = busy
    sure = replace(work, deterministic=True)
    idle = await drain(await make_engine().generate(sure))
    before = len(widths.seen)
    crowd = await at_once(engine, [sure, work, sure])
    assert {3, 4} & set(widths.seen[before:])  # others shared their forwards meanwhile
    for chunks in (crowd[0], crowd[2]):
        for index in range(work.sampling.n):
            kept = [[c.tokens for c in each if c.index == index] for each in (idle, chunks)]
            assert kept[0] == kept[1]


async def test_every_order_has_the_same_bits_under_load(busy: Busy) -> None:
    engine, widths = busy
    texts = ("The fox is red.", "The dog is lazy.", "A and B.")
    sampling = replace(GREEDY, max_tokens=6, logprobs=400)
    works = [
        pine(*order, sampling=sampling, deterministic=True)
        for order in itertools.permutations(texts)
    ]
    before = len(widths.seen)
    answers = [scored(chunks) for chunks in await at_once(engine, works)]
    answers += [scored(await drain(await engine.generate(work))) for work in works[:2]]
    assert {3, 4} & set(widths.seen[before:])
    assert len(answers[0]) == 6
    assert all(answer == answers[0] for answer in answers)


async def test_deterministic_requests_take_nothing_that_was_computed_in_company(
    make_engine: MakeEngine,
) -> None:
    texts = [f"{place} jumps over the lazy dog, naïve. yes or no?" * 5 for place in "ABC"]
    sampling = replace(GREEDY, max_tokens=4, logprobs=400)
    free, sure = (pine(*texts, sampling=sampling, deterministic=each) for each in (False, True))
    idle = await drain(await make_engine().generate(sure))
    engine = make_engine()
    widths = Widths(engine.model)
    streams = [await engine.generate(work) for work in (plain("fox", ENDLESS), free)]
    widths.go.set()
    await drain(streams[1])
    for seen in ("first", "again"):
        chunks = await drain(await engine.generate(sure))
        assert (usage(chunks).cached_tokens > 0) == (seen == "again")
        assert scored(chunks) == scored(idle)
    again = await drain(await engine.generate(free))
    assert usage(again).cached_tokens > 0
    await streams[0].aclose()


class Cut(PlainReading):
    """The plain reading of a prompt in pieces."""

    def __init__(self, *borders: int) -> None:
        super().__init__()
        self._borders = borders

    def pieces(self, length: int) -> tuple[range, ...]:
        return between(self._borders, length)


Cutter = Callable[..., Work]


@pytest.fixture
def cut(through: Through) -> Cutter:
    """Return what makes work that is read in a test's own pieces."""

    def made(reading: PlainReading, **changes: Any) -> Work:
        spec = through(lambda segments, shelf: reading)
        return replace(pine(PROMPTS[1], PROMPTS[2]), reading=spec, **changes)

    return made


async def test_a_prompt_is_read_in_the_forwards_its_reading_names(
    make_engine: MakeEngine, cut: Cutter
) -> None:
    engine = make_engine()
    widths = Widths(engine.model)
    widths.go.set()
    whole = await drain(await engine.generate(cut(PlainReading())))
    length = widths.seen[0]
    assert widths.seen == [length] + [1] * (TOKENS - 1)
    del widths.seen[:]
    pieces = await drain(await engine.generate(cut(Cut(0, 5, 30))))
    assert widths.seen == [5, 25, length - 30] + [1] * (TOKENS - 1)
    assert [token.id for token in scored(pieces)] == [token.id for token in scored(whole)]
    assert pieces[-1].usage == whole[-1].usage


async def test_others_run_between_the_pieces(make_engine: MakeEngine, cut: Cutter) -> None:
    engine = make_engine()
    widths = Widths(engine.model)
    work = cut(Cut(0, 5, 30), deterministic=True)
    streams = [await engine.generate(each) for each in (plain("fox", ENDLESS), work)]
    widths.go.set()
    await drain(streams[1])
    start = widths.seen.index(5)
    assert widths.seen[start + 1] == widths.seen[start + 3] == 1
    assert widths.seen[start + 2] == 25


async def test_what_is_cached_is_not_read_again_and_is_counted(
    make_engine: MakeEngine, cut: Cutter
) -> None:
    engine = make_engine()
    widths = Widths(engine.model)
    widths.go.set()
    whole = await drain(await engine.generate(cut(PlainReading())))
    length = widths.seen[0]
    primed = Cut(7)
    ids = engine._preparation.encoder.encode(cut(primed).prompts[0], "set").ids
    with torch.inference_mode():
        engine._preparation.door.forward(torch.tensor([ids[:7]]), primed)
    del widths.seen[:]
    chunks = await drain(await engine.generate(cut(primed)))
    assert widths.seen[0] == length - 7
    assert [token.id for token in scored(chunks)] == [token.id for token in scored(whole)]
    used = usage(chunks)
    assert (used.prompt_tokens, used.cached_tokens) == (length, 7)
