"""A second question on the same documents: time to its first token against the first question's.

Through the engine, with the documents in another order the second time; a set that comes again is
not read again.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there pine.py would hide the package `pine`

import asyncio
import time
from collections.abc import Sequence
from random import Random

import torch
from transformers import AutoTokenizer

from benchmarks._harness import Row, arguments, medians, show
from benchmarks._llama import random_llama
from pocket import WEIGHTS, data
from server.engines.hf import HfEngine
from server.job import Sampling, Work
from server.prompt import ChatPrompt, Message, Part
from server.stages.pine import Pine

DOCUMENTS = 20


def question(documents: Sequence[str], asked: str) -> Work:
    """Return a deterministic request for one token."""
    parts = [Part(f"{text}\n\n", group="documents") for text in documents]
    prompt = ChatPrompt((Message("user", (*parts, Part(asked))),))
    sampling = Sampling(max_tokens=1, temperature=0)
    return Work((prompt,), sampling, reading=Pine().reading, deterministic=True)


async def first_token(engine: HfEngine, work: Work) -> tuple[float, int]:
    """Return the time to the answer's first token, seconds, and how many tokens were at hand."""
    start = time.perf_counter()
    cached = 0
    async for chunk in await engine.generate(work):
        cached = chunk.usage.cached_tokens if chunk.usage else cached
    return time.perf_counter() - start, cached


def documents(seed: int, sentences: int) -> list[str]:
    """Return texts of some sentences each."""
    random = Random(seed)
    return [
        " ".join(data.describe(person) for person in data.people(random, sentences))
        for _ in range(DOCUMENTS)
    ]


def measure(runner: asyncio.Runner, engine: HfEngine, sentences: int, runs: int) -> Row:
    """Return the second question's time against the first one's, each pair on new documents."""
    seeds = iter(range(runs * 2))
    times: dict[str, float] = {}

    def first() -> float:
        texts = documents(next(seeds), sentences)
        times["first"], cached = runner.run(first_token(engine, question(texts, "Who is Ada?")))
        assert not cached, "the first question must find nothing at hand"
        again = question(texts[::-1], "What is the city of Tom?")
        times["second"], cached = runner.run(first_token(engine, again))
        assert cached, "the second question must find the documents at hand"
        return times["first"]

    found = medians(runs, {"first": first, "second": lambda: times["second"]})
    size = sum(map(len, documents(0, sentences)))
    case = f"{engine.info.id}, {DOCUMENTS} documents, {size} characters"
    metric = "first token, second question / first"
    return Row(case, metric, found["second"] * 1e3, "ms", found["first"] * 1e3)


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    torch.set_num_threads(2)
    runs = 3 if options.quick else 7
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS, local_files_only=True)
    rows = []
    with asyncio.Runner() as runner:
        pocket = HfEngine.load(WEIGHTS, name="pocket")
        random = HfEngine(random_llama("94M"), tokenizer, name="94M random")
        for engine, sentences in ((pocket, 2), (pocket, 6), (random, 2), (random, 8)):
            rows.append(measure(runner, engine, sentences, runs))
        for engine in (pocket, random):
            runner.run(engine.close())
    show("A second question on the same documents, float32, 2 threads", rows, options.json)


if __name__ == "__main__":
    main()
