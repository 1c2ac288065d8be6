"""Requests together against one after another: decode streams, deterministic mode, judge calls.

All goes through the engine: event loop, planning, worker thread, one chunk per token. Both ways run
in one process, in turns. Streams are timed while they decode: from when the last one has its first
token. `deterministic` ones run at once too, but in forwards of their own. Streams have one thread:
two would wait for each other in every small product whenever the machine has anything else to do.
Judge calls are shown for one and for two.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there pine.py would hide the package `pine`

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from random import Random
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks._harness import Row, arguments, medians, show, timed
from benchmarks._llama import random_llama
from pocket import WEIGHTS, data
from server.engines.hf import HfEngine
from server.job import Job, Reply, Sampling
from server.judge.ballot import Ballot, Candidate
from server.judge.ballot import Case as JudgeCase
from server.judge.ladder import climb
from server.pipeline import plan
from server.prompt import ChatPrompt, Message, Part
from server.stages.pine import Pine

STREAMS = (1, 4, 8, 16)
CALLS = 8  # judge calls at once
DOCUMENTS = 2
WORD = 300  # the token that all streams repeat: it has text, so that each one comes as a chunk
Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """An engine, and how many tokens each stream writes."""

    engine: HfEngine
    tokens: int


def random_engine() -> HfEngine:
    """Return the 94M-parameter shape of `benchmarks/pine.py`, with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS, local_files_only=True)
    return HfEngine(random_llama("94M"), tokenizer, name="94M random")


def stream(seed: int, tokens: int, pine: bool) -> Job:
    """Return a request of documents and a question, its own for each seed."""
    asked = data.retrieval(Random(seed), DOCUMENTS, gold=seed % DOCUMENTS)
    documents = [Part(f"{text}\n", group="documents") for text in asked.documents]
    prompt = ChatPrompt((Message("user", (*documents, Part(asked.question))),))
    sampling = Sampling(max_tokens=tokens, temperature=0, ignore_eos=True, logit_bias={WORD: 100.0})
    return Job("batch", sampling, (prompt,), reading=Pine().reading if pine else None)


def judge(seed: int) -> Job:
    """Return a judge's request of two candidates, its own for each seed."""
    contest = data.contest(Random(seed), 2, first_wins=0.5)
    candidates = tuple(Candidate(str(i), text, i) for i, text in enumerate(contest.candidates))
    ballot = Ballot(contest.question, candidates, reference=contest.reference or None)
    sampling = Sampling(max_tokens=1, temperature=0)
    return Job("batch", sampling, case=JudgeCase(ballot), deterministic=True)


async def drain(engine: HfEngine, job: Job) -> list[float]:
    """Run a stream to its end; return when each token came."""
    times: list[float] = []
    async for chunk in await engine.generate(job.work):
        times += [time.perf_counter()] * len(chunk.tokens)
    return times


def decoding(streams: Sequence[list[float]]) -> float:
    """Return tokens per second while all of some streams decode."""
    start = max(times[0] for times in streams)
    tokens = sum(moment > start for times in streams for moment in times)
    return tokens / (max(times[-1] for times in streams) - start)


async def call(engine: HfEngine, job: Job) -> Reply:
    """Run a judge's request through the pipeline, as the server does."""
    planned = plan([{"stage": "pine"}], engine=engine, job=job)
    return await climb(planned, engine)(job)


async def in_turn(works: Sequence[Work]) -> list[Any]:
    """Run one after another."""
    return [await work() for work in works]


async def at_once(works: Sequence[Work]) -> list[Any]:
    """Run all at once."""
    return list(await asyncio.gather(*(work() for work in works)))


def ways(
    run: Callable[[HfEngine, Job], Awaitable[object]], engine: HfEngine, jobs: Sequence[Job]
) -> dict[str, Callable[[], Coroutine[Any, Any, list[Any]]]]:
    """Return the three ways through some requests."""
    free, sure = (
        [partial(run, engine, replace(job, deterministic=deterministic)) for job in jobs]
        for deterministic in (False, True)
    )
    return {
        "in turn": lambda: in_turn(free),
        "together": lambda: at_once(free),
        "deterministic": lambda: at_once(sure),
    }


def compared(case: str, unit: str, rates: dict[str, float]) -> list[Row]:
    """Return throughput together, and deterministic, against one after another."""
    return [
        Row(case, f"{way}, against in turn", rates[way], unit, rates["in turn"])
        for way in ("together", "deterministic")
    ]


def stream_rows(runner: asyncio.Runner, case: Case, count: int, pine: bool, runs: int) -> list[Row]:
    """Measure some decode streams of one kind."""
    jobs = [stream(seed, case.tokens, pine) for seed in range(count)]
    found = ways(drain, case.engine, jobs)

    def rate(way: str) -> float:
        streams: list[list[float]] = runner.run(found[way]())
        if way == "in turn":  # each alone, while it decodes
            return statistics.harmonic_mean([decoding([times]) for times in streams])
        return decoding(streams)

    rates = medians(runs, {way: partial(rate, way) for way in found})
    kind = "pine" if pine else "plain"
    return compared(f"{case.engine.info.id}, {count} {kind} streams", "tokens/s", rates)


def judge_rows(runner: asyncio.Runner, engine: HfEngine, threads: int, runs: int) -> list[Row]:
    """Measure judge calls: a prompt and one token each."""
    found = ways(call, engine, [judge(seed) for seed in range(CALLS)])

    def rate(way: str) -> float:
        return CALLS / timed(lambda: runner.run(found[way]()))

    rates = medians(runs, {way: partial(rate, way) for way in found})
    case = f"{engine.info.id}, {CALLS} judge calls, {threads} threads"
    return compared(case, "calls/s", rates)


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    runs = 2 if options.quick else 7
    rows: list[Row] = []
    with asyncio.Runner() as runner:
        for threads in (2, 1):  # the worker keeps those it was born with
            torch.set_num_threads(threads)
            pocket = HfEngine.load(WEIGHTS, name="pocket")
            rows += judge_rows(runner, pocket, threads, 5 * runs)
        for case in (Case(pocket, 32), Case(random_engine(), 8)):
            for pine, count in product((False, True), STREAMS):
                rows += stream_rows(runner, case, count, pine, runs)
            runner.run(case.engine.close())
    show("Requests together, float32, streams on 1 thread", rows, options.json)


if __name__ == "__main__":
    main()
