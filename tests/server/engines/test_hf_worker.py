"""Many requests at once: all progress, one that leaves stops, one that fails fails alone."""

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from asking import MakeEngine, Through, usage
from specs import PINE
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kvedit.hf import Door, open_door
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from kvedit.sight import Rows
from pocket import WEIGHTS
from server.chunk import Chunk
from server.engines.hf import HfEngine
from server.engines.hf import engine as engine_module
from server.engines.hf import worker as worker_module
from server.engines.hf.sequence import Sequence as HfSequence
from server.engines.hf.worker import Running, Ticket
from server.errors import EngineError
from server.job import ReadingSpec, Sampling, Work
from server.prompt import Part, TextPrompt

ENDLESS = Sampling(max_tokens=200, temperature=0, ignore_eos=True)
SHORT = Sampling(max_tokens=12, temperature=0, ignore_eos=True)


def work(
    text: str, sampling: Sampling, reading: ReadingSpec | None = None, deterministic: bool = False
) -> Work:
    parts = (Part(text, group="d"),) if reading else (Part(text),)
    return Work((TextPrompt(parts),), sampling, reading, deterministic)


async def drain(stream: AsyncIterable[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]


class Watch:
    """Records whose cache each forward of the model used; holds the first one back until `go`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.go = threading.Event()
        self.steps: list[int] = []
        self._caches: list[object] = []  # kept, so that no id is given out twice
        model.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.go.wait(10)
        cache = kwargs.get("past_key_values")
        self._caches.append(cache)
        self.steps.append(id(cache))


async def quiet(watch: Watch) -> int:
    """Wait until no more steps are taken; return how many there were."""
    count = -1
    async with asyncio.timeout(20):
        while count != len(watch.steps):
            count = len(watch.steps)
            await asyncio.sleep(0.05)
    return count


async def test_sixteen_streams_take_turns(make_engine: MakeEngine) -> None:
    engine = make_engine()
    watch = Watch(engine.model)
    works = [work(f"fox {i}", SHORT, deterministic=True) for i in range(16)]
    streams = [await engine.generate(each) for each in works]
    watch.go.set()
    answers = await asyncio.gather(*map(drain, streams))
    assert all(usage(chunks).completion_tokens == 12 for chunks in answers)
    assert len(watch.steps) == 16 * 12
    for start in range(0, len(watch.steps), 16):
        assert len(set(watch.steps[start : start + 16])) == 16  # one step each in every round


async def test_together_as_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    alone = [await drain(await engine.generate(work(f"fox {i}", SHORT))) for i in range(4)]
    streams = [await engine.generate(work(f"fox {i}", SHORT)) for i in range(4)]
    together = await asyncio.gather(*map(drain, streams))
    for first, second in zip(alone, together, strict=True):
        assert [chunk.tokens for chunk in first] == [chunk.tokens for chunk in second]


async def test_a_newcomer_joins_at_the_next_step(make_engine: MakeEngine) -> None:
    engine = make_engine()
    running = await engine.generate(work("fox", ENDLESS))
    await anext(running)
    late = await drain(await engine.generate(work("dog", SHORT)))
    assert late[-1].finish_reason == "length"
    seen = len(await drain(running))
    assert seen > 100  # the first was far from done when the second ended


async def test_closing_a_stream_stops_its_work(make_engine: MakeEngine) -> None:
    engine = make_engine()
    watch = Watch(engine.model)
    watch.go.set()
    stream = await engine.generate(work("fox", ENDLESS))
    await anext(stream)
    await stream.aclose()
    taken = len(watch.steps)
    assert await quiet(watch) <= taken + 2
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_cancelling_a_consumer_stops_its_work(make_engine: MakeEngine) -> None:
    engine = make_engine()
    watch = Watch(engine.model)
    stream = await engine.generate(work("fox", ENDLESS))
    task = asyncio.create_task(drain(stream))
    await asyncio.sleep(0)  # it waits for its first chunk now
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    watch.go.set()
    assert await quiet(watch) <= 1


async def test_dropping_a_stream_stops_its_work(make_engine: MakeEngine) -> None:
    engine = make_engine()
    watch = Watch(engine.model)
    await engine.generate(work("fox", ENDLESS))
    watch.go.set()
    assert await quiet(watch) <= 2


async def test_closing_one_leaves_the_others_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    kept, closed = [await engine.generate(work(text, SHORT)) for text in ("fox", "dog")]
    await closed.aclose()
    alone = await drain(await engine.generate(work("fox", SHORT)))
    assert [chunk.tokens for chunk in await drain(kept)] == [chunk.tokens for chunk in alone]


async def test_what_a_closed_sequence_held_is_freed(
    make_engine: MakeEngine, through: Through
) -> None:
    engine = make_engine()
    held: list[weakref.ref[PlainReading]] = []

    def build(segments: Segments | None, shelf: Shelf | None) -> PlainReading:
        reading = PlainReading()
        if shelf is not None:
            held.append(weakref.ref(reading))
        return reading

    stream = await engine.generate(work("fox", ENDLESS, through(build)))
    await anext(stream)
    assert held[0]() is not None
    await stream.aclose()
    for _ in range(100):
        if held[0]() is not None:
            await asyncio.sleep(0.02)
    assert held[0]() is None


class Broken(PlainReading):
    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        if key.shape[2] == 1:
            raise RuntimeError("planted")
        return super().rows(layer, key, value)


async def test_an_error_is_one_requests_own(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture, through: Through
) -> None:
    engine = make_engine()
    good = await engine.generate(work("fox", SHORT))
    bad = await engine.generate(work("dog", SHORT, through(lambda segments, shelf: Broken())))
    with pytest.raises(EngineError, match="RuntimeError") as caught:
        await drain(bad)
    assert caught.value.status == 500
    assert "planted" in caplog.text
    assert (await drain(good))[-1].finish_reason == "length"
    assert engine.alive
    assert (await drain(await engine.generate(work("fox", SHORT))))[-1].usage is not None


def several(count: int, reading: ReadingSpec | None = None, *, deterministic: bool = False) -> Work:
    """Return work of so many prompts that never end."""
    asked = work("fox", ENDLESS, reading, deterministic=deterministic)
    return replace(asked, prompts=asked.prompts * count)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("limit", [1, 8])
async def test_when_one_choice_fails_the_others_stop(
    make_engine: MakeEngine, through: Through, limit: int, deterministic: bool
) -> None:
    engine, made = make_engine(active_limit=limit), list[PlainReading]()

    def build(segments: Segments | None, shelf: Shelf | None) -> PlainReading:
        made.append(PlainReading() if made else Broken())
        return made[-1]

    watch = Watch(engine.model)
    stream = await engine.generate(several(4, through(build), deterministic=deterministic))
    watch.go.set()
    with pytest.raises(EngineError, match="RuntimeError"):
        await drain(stream)
    # a prompt and a token each, and what was begun; `stream` still listens, as a slow client does
    assert await quiet(watch) <= 4 * 3
    assert len(made) == 4
    del stream


async def test_what_waits_of_a_cancelled_request_never_runs(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Running] = []

    def running(ticket: Ticket, sequence: HfSequence) -> Running:
        ran.append(Running(ticket, sequence))
        return ran[-1]

    monkeypatch.setattr(worker_module, "Running", running)
    engine = make_engine(active_limit=2)
    watch = Watch(engine.model)
    other = await engine.generate(work("dog", SHORT, deterministic=True))
    many = await engine.generate(several(50))
    await many.aclose()
    watch.go.set()
    assert (await drain(other))[-1].finish_reason == "length"
    assert SHORT.max_tokens and await quiet(watch) <= SHORT.max_tokens + 2
    assert len(ran) == 2


async def test_beyond_the_limit_sequences_wait_their_turn(make_engine: MakeEngine) -> None:
    engine = make_engine(active_limit=2)
    watch = Watch(engine.model)
    many = await engine.generate(
        replace(
            work("fox 0", SHORT, deterministic=True),
            prompts=tuple(TextPrompt((Part(f"fox {i}"),)) for i in range(6)),
        )
    )
    one = await engine.generate(work("dog", SHORT, deterministic=True))
    watch.go.set()
    chunks, late = await asyncio.gather(drain(many), drain(one))
    assert Counter(chunk.finish_reason for chunk in chunks)["length"] == 6
    assert late[-1].finish_reason == "length"
    running = {watch.steps[place] for place in range(30)}
    assert len(running) == 3  # two of the batch, and the request that is never kept out
    ends = [chunk.usage for chunk in chunks if chunk.finish_reason and chunk.usage]
    assert sum(used.completion_tokens for used in ends) == 6 * 12


async def test_a_batch_numbers_its_choices_by_prompt(
    make_engine: MakeEngine, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = make_engine()
    prompts = tuple(TextPrompt((Part(text),)) for text in ("fox", "lazy dog"))
    sampling = Sampling(max_tokens=4, n=2, seed=1)
    chunks = await drain(await engine.generate(Work(prompts, sampling)))
    usage = {chunk.index: chunk.usage for chunk in chunks if chunk.usage}
    assert sorted(usage) == [0, 1, 2, 3]
    counted = [usage[index].prompt_tokens for index in range(4)]
    lengths = [len(tokenizer.encode(text)) for text in ("fox", "lazy dog")]
    assert counted == [lengths[0], 0, lengths[1], 0]  # so that they add up


async def test_closing_the_engine_ends_everything(make_engine: MakeEngine) -> None:
    engine = make_engine()
    stream = await engine.generate(work("fox", ENDLESS))
    await anext(stream)
    await engine.close()
    assert not engine.alive
    with pytest.raises(EngineError) as caught:
        await drain(stream)
    assert caught.value.status == 503
    with pytest.raises(EngineError, match="stopped"):
        await engine.generate(work("fox", SHORT))


async def test_work_without_prompts_ends_at_once(make_engine: MakeEngine) -> None:
    assert await drain(await make_engine().generate(Work((), SHORT))) == []


async def test_an_engine_is_loaded_in_a_thread_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its OpenMP team ends with it; beside the worker's, both would sleep between two steps."""
    threads, opened = [], open_door

    def watched(model: PreTrainedModel) -> Door:
        threads.append(threading.current_thread())
        return opened(model)

    monkeypatch.setattr(engine_module, "open_door", watched)
    engine = HfEngine.load(WEIGHTS, name="pocket")
    assert threads[0] is not threading.current_thread()
    assert not threads[0].is_alive()
    await engine.close()


async def test_only_the_last_piece_of_a_prompt_asks_for_logits(make_engine: MakeEngine) -> None:
    engine, kept = make_engine(), []
    logits = engine.model.register_forward_hook(
        lambda module, arguments, output: kept.append(output.logits.shape[1])
    )
    text = "fox " * 80  # long enough to be cut behind its documents
    parts = (Part(text, group="d"), Part(text, group="d"), Part("which?"))
    asked = Work((TextPrompt(parts),), SHORT, PINE, deterministic=True)
    await drain(await engine.generate(asked))
    logits.remove()
    assert kept == [0, *[1] * (SHORT.max_tokens or 0)]
