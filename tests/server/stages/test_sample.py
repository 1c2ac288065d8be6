"""Sample: several answers in one work, drawn from a seed."""

from __future__ import annotations

from dataclasses import replace

from ballots import judging

from server.engines.scripted import Answer, Scripted
from server.job import Job, Reply, Work
from server.judge.ladder import climb
from server.pipeline import plan
from server.stages.sample import Sample


async def asked(job: Job, **fields: object) -> tuple[Reply, Work]:
    """Return the reply of a judge that is undecided, and the first work of the engine."""
    said = ["Verdict: [[A]]", "Verdict: [[B]]", "hm", "Verdict: [[A]]", "Verdict: [[T]]"] * 2
    engine = Scripted([Answer(text) for text in said])
    made = plan([{"stage": "sample", **fields}], engine=engine, job=job)
    reply = await climb(made, engine)(job)
    assert len(engine.works) == 2  # swap is implied: one work per order, however many answers
    return reply, engine.works[0]


async def test_the_answers_of_an_order_are_one_work() -> None:
    reply, work = await asked(judging())
    assert (work.sampling.n, work.sampling.temperature, work.sampling.seed) == (5, 1.0, 0)
    assert [call.verdict for call in reply.calls] == ["A", "A"]
    assert [len(call.samples) for call in reply.calls] == [5, 5]
    assert reply.notes["sample"] == [{"answers": 5, "unparsed": 1}] * 2


async def test_its_numbers_and_the_requests() -> None:
    job = judging()
    job = job.but(sampling=replace(job.sampling, seed=7, max_tokens=9))
    _, seen = await asked(job, k=2, temperature=0.5)
    assert (seen.sampling.n, seen.sampling.temperature) == (2, 0.5)
    assert (seen.sampling.seed, seen.sampling.max_tokens) == (7, 9)
    _, seen = await asked(job, max_tokens=11)
    assert seen.sampling.max_tokens == 11


async def test_one_answer_is_counted_too() -> None:
    reply, _ = await asked(judging(), k=1)
    assert [call.verdict for call in reply.calls] == ["A", "B"]
    assert reply.notes["sample"] == [{"answers": 1, "unparsed": 0}] * 2


def test_it_counts_as_many_calls_as_answers() -> None:
    assert Sample(k=7).calls(judging()) == 7
    assert Sample().rungs() == ()
