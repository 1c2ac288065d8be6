"""A whole engine around a model that is offloaded, or on several devices, answers as around one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import ONE, OTHER, Devices
from judges import asked, invariant
from specs import PINE
from spread import CPU, OFFLOADED, across, offloaded, saved, whole
from transformers import PreTrainedTokenizerFast

from kvedit.executors import choice
from kvedit.hf import open_door
from kvedit.plain import PlainReading
from server.chunk import Chunk, Scored
from server.engines.hf import HfEngine, sampling
from server.engines.hf.context import Context
from server.engines.hf.forward import ReadingForward
from server.engines.hf.worker import Worker
from server.job import Sampling, Work
from server.prompt import ChatPrompt, Message, Part, Prompt, TextPrompt

DOCUMENTS = ("The fox is red.", "The dog is lazy, naïve.", "A and B.")
LONG = "The quick brown fox jumps over the lazy dog. " * 3
GREEDY: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0, "logprobs": 2, "ignore_eos": True}


def chat(text: str) -> Prompt:
    return ChatPrompt((Message("user", (Part(text),)),))


def documents(*texts: str, start: str = LONG * 2) -> Prompt:
    parts = (Part(text, group="d") for text in texts)
    return TextPrompt((Part(start), *parts, Part("Who?")))


def work(prompt: Prompt, deterministic: bool = False, pine: bool = False, **numbers: Any) -> Work:
    wanted = Sampling(**{**GREEDY, **numbers})
    return Work((prompt,), wanted, PINE if pine else None, deterministic)


WORKS = {
    "choices": work(chat("fox"), n=2, temperature=1.0, seed=4, top_p=0.9),
    "penalties": work(chat("fox"), repetition_penalty=1.2, logit_bias={7: 2.0}, presence_penalty=1),
    "prompt scored": work(TextPrompt((Part(LONG),)), echo=True, max_tokens=0),
    "labels": work(documents(*DOCUMENTS), pine=True, deterministic=True, labels=("A", "B")),
    "reuse": work(documents(*DOCUMENTS), pine=True, deterministic=True),
}


async def drain(stream: AsyncIterable[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]


async def one_by_one(engine: HfEngine) -> dict[str, list[Chunk]]:
    return {name: await drain(await engine.generate(each)) for name, each in WORKS.items()}


async def at_once(engine: HfEngine) -> list[list[Chunk]]:
    works = [work(chat(text)) for text in ("fox", LONG, "é")]
    works += [work(documents(*each, start="Read: "), pine=True) for each in (DOCUMENTS, ("A", "B"))]
    streams = [await engine.generate(each) for each in works]
    return await asyncio.gather(*map(drain, streams))


async def staying(engine: HfEngine) -> list[list[Chunk]]:
    session, found = await engine.open(PINE), []
    for prompt in (documents(*DOCUMENTS), TextPrompt((Part(" And then?"),))):
        await session.feed(prompt)
        found.append(await drain(await session.generate(Sampling(**GREEDY))))
    await session.close()
    return found


async def verdict(engine: HfEngine, *texts: str) -> dict[str, Any]:
    candidates = [{"id": text, "text": text} for text in texts]
    stages = [{"stage": "swap"}, {"stage": "pine"}]
    reply = await asked(engine, candidates, stages=stages)
    return invariant(reply, {text: text for text in texts})


def scored(chunks: list[Chunk]) -> list[Scored]:
    return [token for chunk in chunks for token in chunk.tokens]


def close(one: list[Chunk], other: list[Chunk]) -> None:
    """Compare tokens, and their log-probabilities to rounding."""
    pairs = list(zip(scored(one), scored(other), strict=True))
    assert pairs or one[-1].notes == other[-1].notes
    for first, second in pairs:
        assert first.id == second.id
        assert first.logprob == pytest.approx(second.logprob, abs=5e-5)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Path]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield saved(tmp_path_factory.mktemp("model"), vocab_size=len(tokenizer))
    torch.set_num_threads(before)


@pytest.fixture
def engine(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Iterator[HfEngine]:
    made = HfEngine(whole(folder), tokenizer, name="tiny")
    yield made
    asyncio.run(made.close())


@pytest.mark.parametrize("how", OFFLOADED)
async def test_offloaded(
    folder: Path, engine: HfEngine, tokenizer: PreTrainedTokenizerFast, how: str
) -> None:
    spread = HfEngine(offloaded(folder, how), tokenizer, name="tiny")
    for fact in ("weights", "device", "dtype", "executor", "abilities", "refusals"):
        assert getattr(spread.info, fact) == getattr(engine.info, fact)
    assert await one_by_one(spread) == await one_by_one(engine)
    assert await staying(spread) == await staying(engine)
    assert await verdict(spread, "One.", "Two!") == await verdict(engine, "Two!", "One.")
    for one, other in zip(await at_once(spread), await at_once(engine), strict=True):
        close(one, other)
    await spread.close()


@pytest.mark.parametrize("how", ["devices and offload", "logits elsewhere"])
async def test_on_several_devices(
    folder: Path, tokenizer: PreTrainedTokenizerFast, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, generator = Worker._run, sampling.generator

    def run_there(worker: Worker) -> None:
        with Devices():
            run(worker)

    monkeypatch.setattr(Worker, "_run", run_there)
    monkeypatch.setattr(sampling, "generator", lambda given, index, _: generator(given, index, CPU))
    monkeypatch.setattr(choice, "_candidates", lambda device: iter(()))
    engine = HfEngine(whole(folder), tokenizer, name="tiny")
    with Devices():
        spread = HfEngine(across(folder, how), tokenizer, name="tiny")
    assert spread.info.weights == engine.info.weights
    found, expected = await one_by_one(spread), await one_by_one(engine)
    assert found["labels"] == expected["labels"] and found["reuse"] == expected["reuse"]
    for name in WORKS:
        close(found[name], expected[name])
    for one, other in zip(await at_once(spread), await at_once(engine), strict=True):
        close(one, other)
    for order in (DOCUMENTS[::-1], DOCUMENTS[1:] + DOCUMENTS[:1]):
        asking = work(documents(*order), pine=True, deterministic=True)
        assert scored(await drain(await spread.generate(asking))) == scored(found["reuse"])
    await spread.close()
    await engine.close()


def test_a_token_is_read_where_the_others_are(folder: Path) -> None:
    """An answer's tokens come from where the logits are; those fed later stand beside them."""
    with Devices():
        door = open_door(across(folder, "logits elsewhere"))
        context = Context(ReadingForward(door, PlainReading()), door.device)
        context.feed((1, 2, 3))
        context.begin()
        context.done()
        context.take(torch.tensor([[4]], device=OTHER))
        context.feed((5,))
        assert context.pending.device == ONE and context.pending.tolist() == [[4, 5]]
