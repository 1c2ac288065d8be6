"""Many requests at once: all progress, one that leaves stops, one that fails fails alone."""

import asyncio
import threading
import weakref
from collections import Counter

import pytest

from kvedit.plain import Plain
from pine.reading import Pine
from pocket import WEIGHTS
from server.engines.hf import HfEngine
from server.engines.hf import engine as engine_module
from server.engines.hf import worker as worker_module
from server.engines.hf.worker import Turn
from server.errors import EngineError
from server.job import Job, Part, Sampling, TextPrompt

ENDLESS = Sampling(max_tokens=200, temperature=0, ignore_eos=True)
SHORT = Sampling(max_tokens=12, temperature=0, ignore_eos=True)


def job(text: str, sampling: Sampling, reader=None, deterministic=False) -> Job:
    parts = (Part(text, group="d"),) if reader else (Part(text),)
    return Job("tiny", sampling, (TextPrompt(parts),), reader=reader, deterministic=deterministic)


async def drain(stream) -> list:
    return [chunk async for chunk in stream]


class Watch:
    """Records whose cache each forward of the model used; holds the first one back until `go`."""

    def __init__(self, model) -> None:
        self.go = threading.Event()
        self.steps: list[int] = []
        self._caches: list[object] = []  # kept, so that no id is given out twice
        model.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module, args, kwargs) -> None:
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


async def test_sixteen_streams_take_turns(make_engine):
    engine = make_engine()
    watch = Watch(engine.model)
    jobs = [job(f"fox {i}", SHORT, deterministic=True) for i in range(16)]
    streams = [await engine.generate(each) for each in jobs]
    watch.go.set()
    answers = await asyncio.gather(*map(drain, streams))
    assert all(chunks[-1].usage.completion_tokens == 12 for chunks in answers)
    assert len(watch.steps) == 16 * 12
    for start in range(0, len(watch.steps), 16):
        assert len(set(watch.steps[start : start + 16])) == 16  # one step each in every round


async def test_together_as_alone(make_engine):
    engine = make_engine()
    alone = [await drain(await engine.generate(job(f"fox {i}", SHORT))) for i in range(4)]
    streams = [await engine.generate(job(f"fox {i}", SHORT)) for i in range(4)]
    together = await asyncio.gather(*map(drain, streams))
    for first, second in zip(alone, together, strict=True):
        assert [chunk.tokens for chunk in first] == [chunk.tokens for chunk in second]


async def test_a_newcomer_joins_at_the_next_step(make_engine):
    engine = make_engine()
    running = await engine.generate(job("fox", ENDLESS))
    await anext(running)
    late = await drain(await engine.generate(job("dog", SHORT)))
    assert late[-1].finish_reason == "length"
    seen = len(await drain(running))
    assert seen > 100  # the first was far from done when the second ended


async def test_closing_a_stream_stops_its_work(make_engine):
    engine = make_engine()
    watch = Watch(engine.model)
    watch.go.set()
    stream = await engine.generate(job("fox", ENDLESS))
    await anext(stream)
    await stream.aclose()
    taken = len(watch.steps)
    assert await quiet(watch) <= taken + 2
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_cancelling_a_consumer_stops_its_work(make_engine):
    engine = make_engine()
    watch = Watch(engine.model)
    stream = await engine.generate(job("fox", ENDLESS))
    task = asyncio.create_task(drain(stream))
    await asyncio.sleep(0)  # it waits for its first chunk now
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    watch.go.set()
    assert await quiet(watch) <= 1


async def test_dropping_a_stream_stops_its_work(make_engine):
    engine = make_engine()
    watch = Watch(engine.model)
    await engine.generate(job("fox", ENDLESS))
    watch.go.set()
    assert await quiet(watch) <= 2


async def test_closing_one_leaves_the_others_alone(make_engine):
    engine = make_engine()
    kept, closed = [await engine.generate(job(text, SHORT)) for text in ("fox", "dog")]
    await closed.aclose()
    alone = await drain(await engine.generate(job("fox", SHORT)))
    assert [chunk.tokens for chunk in await drain(kept)] == [chunk.tokens for chunk in alone]


async def test_what_a_closed_sequence_held_is_freed(make_engine):
    engine = make_engine()
    held: list[weakref.ref] = []

    def reader(segments, shelf):
        reading = Plain()
        held.append(weakref.ref(reading))
        return reading

    stream = await engine.generate(job("fox", ENDLESS, reader))
    await anext(stream)
    assert held[0]() is not None
    await stream.aclose()
    for _ in range(100):
        if held[0]() is not None:
            await asyncio.sleep(0.02)
    assert held[0]() is None


class Broken(Plain):
    def read(self, layer, query, key, value):
        if query.shape[2] == 1:
            raise RuntimeError("planted")
        return super().read(layer, query, key, value)


async def test_an_error_is_one_requests_own(make_engine, caplog):
    engine = make_engine()
    good = await engine.generate(job("fox", SHORT))
    bad = await engine.generate(job("dog", SHORT, lambda segments, shelf: Broken()))
    with pytest.raises(EngineError, match="RuntimeError") as caught:
        await drain(bad)
    assert caught.value.status == 500
    assert "planted" in caplog.text
    assert (await drain(good))[-1].finish_reason == "length"
    assert engine.alive
    assert (await drain(await engine.generate(job("fox", SHORT))))[-1].usage is not None


def several(count: int, reader=None, **options: bool) -> Job:
    """Return a job of so many prompts that never end."""
    asked = job("fox", ENDLESS, reader, **options)
    return asked.but(prompts=asked.prompts * count)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("limit", [1, 8])
async def test_when_one_choice_fails_the_others_stop(make_engine, limit: int, deterministic: bool):
    engine, made = make_engine(active_limit=limit), []

    def reader(segments, shelf):
        made.append(Plain() if made else Broken())
        return made[-1]

    watch = Watch(engine.model)
    stream = await engine.generate(several(4, reader, deterministic=deterministic))
    watch.go.set()
    with pytest.raises(EngineError, match="RuntimeError"):
        await drain(stream)
    # a prompt and a token each, and what was begun; `stream` still listens, as a slow client does
    assert await quiet(watch) <= 4 * 3
    assert len(made) == 4
    del stream


async def test_what_waits_of_a_cancelled_request_never_gets_a_turn(make_engine, monkeypatch):
    turns: list[Turn] = []

    def turn(*parts) -> Turn:
        turns.append(Turn(*parts))
        return turns[-1]

    monkeypatch.setattr(worker_module, "Turn", turn)
    engine = make_engine(active_limit=2)
    watch = Watch(engine.model)
    other = await engine.generate(job("dog", SHORT, deterministic=True))
    many = await engine.generate(several(50))
    await many.aclose()
    watch.go.set()
    assert (await drain(other))[-1].finish_reason == "length"
    assert await quiet(watch) <= SHORT.max_tokens + 2
    assert len(turns) == 2


async def test_beyond_the_limit_sequences_wait_their_turn(make_engine):
    engine = make_engine(active_limit=2)
    watch = Watch(engine.model)
    many = await engine.generate(
        job("fox 0", SHORT, deterministic=True).but(
            prompts=tuple(TextPrompt((Part(f"fox {i}"),)) for i in range(6))
        )
    )
    one = await engine.generate(job("dog", SHORT, deterministic=True))
    watch.go.set()
    chunks, late = await asyncio.gather(drain(many), drain(one))
    assert Counter(chunk.finish_reason for chunk in chunks)["length"] == 6
    assert late[-1].finish_reason == "length"
    running = {watch.steps[place] for place in range(30)}
    assert len(running) == 3  # two of the batch, and the request that is never kept out
    assert sum(chunk.usage.completion_tokens for chunk in chunks if chunk.finish_reason) == 6 * 12


async def test_a_batch_numbers_its_choices_by_prompt(make_engine, tokenizer):
    engine = make_engine()
    prompts = tuple(TextPrompt((Part(text),)) for text in ("fox", "lazy dog"))
    sampling = Sampling(max_tokens=4, n=2, seed=1)
    chunks = await drain(await engine.generate(Job("tiny", sampling, prompts)))
    usage = {chunk.index: chunk.usage for chunk in chunks if chunk.usage}
    assert sorted(usage) == [0, 1, 2, 3]
    counted = [usage[index].prompt_tokens for index in range(4)]
    lengths = [len(tokenizer.encode(text)) for text in ("fox", "lazy dog")]
    assert counted == [lengths[0], 0, lengths[1], 0]  # so that they add up


async def test_closing_the_engine_ends_everything(make_engine):
    engine = make_engine()
    stream = await engine.generate(job("fox", ENDLESS))
    await anext(stream)
    await engine.close()
    assert not engine.alive
    with pytest.raises(EngineError) as caught:
        await drain(stream)
    assert caught.value.status == 503
    with pytest.raises(EngineError, match="stopped"):
        await engine.generate(job("fox", SHORT))


async def test_a_job_without_prompts_ends_at_once(make_engine):
    assert await drain(await make_engine().generate(Job("tiny", SHORT))) == []


async def test_an_engine_is_loaded_in_a_thread_that_ends(monkeypatch: pytest.MonkeyPatch):
    """Its OpenMP team ends with it; beside the worker's, both would sleep between two steps."""
    threads, opened = [], engine_module.open_door

    def watched(model):
        threads.append(threading.current_thread())
        return opened(model)

    monkeypatch.setattr(engine_module, "open_door", watched)
    engine = HfEngine.load(WEIGHTS, name="pocket")
    assert threads[0] is not threading.current_thread()
    assert not threads[0].is_alive()
    await engine.close()


async def test_only_the_last_piece_of_a_prompt_asks_for_logits(make_engine):
    engine, kept = make_engine(), []
    logits = engine.model.register_forward_hook(
        lambda module, arguments, output: kept.append(output.logits.shape[1])
    )
    text = "fox " * 80  # long enough to be cut behind its documents
    parts = (Part(text, group="d"), Part(text, group="d"), Part("which?"))
    asked = Job("tiny", SHORT, (TextPrompt(parts),), reader=Pine, deterministic=True)
    await drain(await engine.generate(asked))
    logits.remove()
    assert kept == [0, *[1] * SHORT.max_tokens]
