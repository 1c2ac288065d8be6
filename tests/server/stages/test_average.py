"""The average stage: documents in one reading, candidates in calls of which one vote is made."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ballots import judging
from judges import ALL, asked, invariant, judged, opinionated, serving

from kvedit.average import AverageReading
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from server.engines.base import Ability
from server.engines.readings import build
from server.engines.scripted import Scripted, content_judge, slot_lover
from server.errors import PlanError
from server.job import Job, ReadingSpec, Reply, Sampling
from server.pipeline import plan
from server.prompt import ChatPrompt, Message, Part
from server.stages.average import Average

AVERAGE, PINE, SWAP = {"stage": "average"}, {"stage": "pine"}, {"stage": "swap"}
DOCUMENTS = tuple(Part(text, "documents") for text in ("one", "two", "three"))


def documents(*parts: Part) -> Job:
    return Job("m", Sampling(), prompts=(ChatPrompt((Message("user", parts),)),))


async def run(stage: Average, job: Job) -> Job:
    """Return the job as the stage passes it on."""
    seen: list[Job] = []

    async def proceed(each: Job) -> Reply:
        seen.append(each)
        return Reply(notes={"average": {"documents": 3}})

    reply = await stage.run(job, proceed)
    assert reply.notes == {"average": {"documents": 3}}
    [only] = seen
    return only


def reading_of(spec: ReadingSpec | None) -> AverageReading:
    """Return the reading that is built of it, of three documents."""
    assert spec is not None
    reading = build(spec, Segments((1,), ((3,), (2,), (4,)), (4,)).canonical(), Shelf(0))
    assert isinstance(reading, AverageReading)
    return reading


async def test_documents_are_read_in_several_orders_by_one_call() -> None:
    job = documents(*DOCUMENTS, Part("Why?"))
    passed = await run(Average(), job)
    assert passed.prompts == job.prompts
    assert reading_of(passed.reading).orders == ((0, 1, 2), (1, 2, 0))
    assert Average(orders=9).calls(job) == 1


@pytest.mark.parametrize(("count", "read"), [(1, 1), (2, 2), (5, 5), (64, 6)])
async def test_as_many_orders_as_are_asked_for(count: int, read: int) -> None:
    """Of three documents there are six: rotations, and those of the reverse."""
    passed = await run(Average(orders=count), documents(*DOCUMENTS))
    assert len(reading_of(passed.reading).orders) == read


async def test_the_reading_is_data() -> None:
    stages = [Average(), Average(orders=2), Average(mean="probability"), Average()]
    specs = [(await run(stage, documents(*DOCUMENTS))).reading for stage in stages]
    assert specs[0] == specs[3]
    assert len(set(specs)) == 3
    assert {spec.cut for spec in specs if spec} == {"set"}


async def test_delimiters_cut_the_documents_out() -> None:
    passed = await run(Average(delimiters=("<", ">")), documents(Part("<one> <two> Why?")))
    [message] = passed.prompts[0].messages  # type: ignore[union-attr]
    assert [part.group for part in message.parts] == ["documents", "documents", None]


def test_candidates_are_asked_once_for_each_order() -> None:
    assert Average().calls(judging("a", "b")) == 2
    assert Average().calls(judging("a", "b", "c", "d", "e")) == 5
    assert Average(orders=8).calls(judging("a", "b")) == 2
    assert Average(orders=3).calls(judging("a", "b", "c", "d")) == 3
    assert Average(orders=7).calls(judging("a", "b", "c", "d")) == 7


def refused(stages: object, job: Job, *abilities: Ability) -> str:
    with pytest.raises(PlanError) as caught:
        plan(stages, engine=Scripted(slot_lover(), abilities or ALL), job=job)
    assert caught.value.status == 400
    return caught.value.message


@pytest.mark.parametrize(
    ("stages", "job", "abilities", "message"),
    [
        (
            [AVERAGE], documents(*DOCUMENTS), ("text", "logprobs"),
            "stage 'average' must have an engine that offers attention, got none; leave the stage "
            "out or serve another model",
        ),
        (
            [AVERAGE], judging("a", "b"), ("text",),
            "stage 'average' must have an engine that offers logprobs, got none; serve a model "
            "that does",
        ),
        (
            [AVERAGE], documents(Part("no set")), ALL,
            "stage 'average' must have a set of documents or candidates, got none; send "
            "`documents`, content parts with a `group`, or candidates to /v1/judge",
        ),
        (
            [AVERAGE], documents(Part("a", "x"), Part("then"), Part("b", "x")), ALL,
            "stage 'average' must have one set of documents in a prompt, got 2; put the documents "
            "next to each other, in one group",
        ),
        (
            [AVERAGE, PINE], documents(*DOCUMENTS), ALL,
            "stage 'pine' cannot read a prompt that another stage reads, got 'average' before it; "
            "leave one of them out",
        ),
        (
            [AVERAGE, SWAP], judging("a", "b"), ALL,
            "stage 'swap' cannot set the order, got 'average' which sets it already; leave one of "
            "them out",
        ),
        (
            [{**AVERAGE, "delimiters": ["<", ">"]}], judging("a", "b"), ALL,
            "stage 'average' field 'delimiters' cannot be used with candidates, which are a set "
            "already, got ['<', '>']; leave it out",
        ),
        ([{**AVERAGE, "orders": 0}], documents(*DOCUMENTS), ALL, "stage 'average' field 'orders'"),
        ([{**AVERAGE, "orders": 65}], documents(*DOCUMENTS), ALL, "stage 'average' field 'orders'"),
        ([{**AVERAGE, "mean": "max"}], documents(*DOCUMENTS), ALL, "stage 'average' field 'mean'"),
    ],
)  # fmt: skip
def test_what_cannot_be_averaged_is_refused(
    stages: object, job: Job, abilities: tuple[Ability, ...], message: str
) -> None:
    assert refused(stages, job, *abilities).startswith(message)


def test_labels_alone_need_no_attention() -> None:
    engine = Scripted(slot_lover(), ("text", "logprobs"))
    made = plan([AVERAGE], engine=engine, job=judging("a", "b", "c"))
    assert made.calls(judging("a", "b", "c")) == 3


@pytest.mark.parametrize("inner", [[], [PINE]], ids=["plain", "pine"])
@pytest.mark.parametrize("count", [None, 1, 2, 6])
@pytest.mark.parametrize("form", ["relation", "score"])
async def test_no_order_of_the_candidates_changes_a_bit(
    inner: list[Any], count: int | None, form: str
) -> None:
    texts = {"x": "One.", "y": "Two!", "z": "- item"}
    engine = Scripted(content_judge(opinionated), ALL)
    stages = [{**AVERAGE, "orders": count}, *inner]
    replies = [
        await asked(engine, [{"id": each, "text": texts[each]} for each in order], None,
                    stages=stages, form=form)
        for order in itertools.permutations(texts)
    ]  # fmt: skip
    first = invariant(replies[0], texts)
    assert first["preferred"] is not None
    assert all(invariant(reply, texts) == first for reply in replies)
    assert len(replies[0]["calls"]) == (count or 3)


async def test_one_decision_is_made_of_the_mean() -> None:
    """Each order alone names whoever stands first; together they name who is better."""
    async with serving(content_judge(lambda text, slot: len(text) + 9 * (slot == 0))) as client:
        swapped = await judged(client, ["aaa", "bbbbb"], stages=[SWAP], ties="forbid")
        reply = await judged(client, ["aaa", "bbbbb"], stages=[AVERAGE], ties="forbid")
    assert (swapped["status"], swapped["winner"]) == ("order_conflict", None)
    assert (reply["status"], reply["winner"], reply["preferred"]) == ("consistent", "1", "1")
    assert reply["margin"] == pytest.approx(2.0) == swapped["margin"]
    assert reply["rung"] == "average"
    note = reply["evenhand"]["notes"]["average"]
    assert note == {"orders": 2, "slot_bias": pytest.approx(9.0)}
    assert len(reply["calls"]) == 2


async def test_it_costs_what_its_calls_cost() -> None:
    async with serving(content_judge(opinionated)) as client:
        swapped, reply = [
            await judged(client, ["aaa", "bbbbb"], stages=[stage]) for stage in (SWAP, AVERAGE)
        ]
    assert reply["usage"] == swapped["usage"]
