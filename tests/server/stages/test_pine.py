"""The pine stage: what it makes of a job."""

from __future__ import annotations

import pytest

from kvedit.reading import LayerKind
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from pine.reading import PineReading
from server.engines.readings import build, refusal
from server.errors import PlanError
from server.job import Job, ReadingSpec, Reply, Sampling
from server.judge.ballot import Ballot, Candidate, Case
from server.pipeline.parse import parse
from server.prompt import ChatPrompt, Message, Part
from server.stages.pine import Pine


def judged(*texts: str, order: tuple[int, ...] | None = None) -> Job:
    candidates = tuple(Candidate(str(i), text, i) for i, text in enumerate(texts))
    return Job("m", Sampling(), case=Case(Ballot("Q?", candidates, order)))


def asked(*parts: Part) -> Job:
    return Job("m", Sampling(), prompts=(ChatPrompt((Message("user", parts),)),))


async def run(stage: Pine, job: Job) -> Job:
    """Return the job as the stage passes it on."""
    seen: list[Job] = []

    async def proceed(each: Job) -> Reply:
        seen.append(each)
        return Reply()

    await stage.run(job, proceed)
    [only] = seen
    return only


def reading_of(job: Job) -> PineReading:
    """Return the reading that the job asks for, of two documents out of canonical order."""
    assert job.reading is not None
    segments = Segments((1,), ((3,), (2,)), (4,)).canonical()
    reading = build(job.reading, segments, Shelf(0))
    assert isinstance(reading, PineReading)
    return reading


async def test_documents_are_read_through_pine() -> None:
    job = asked(Part("one", "documents"), Part("two", "documents"), Part("Why?"))
    passed = await run(Pine(), job)
    assert reading_of(passed).report()["pine"]["canonical_order"] == [1, 0]
    assert passed.prompts == job.prompts


async def test_an_explanation_is_made_if_asked_for() -> None:
    job = asked(Part("one", "documents"), Part("Why?"))
    for explain in (False, True):
        note = reading_of(await run(Pine(explain=explain), job)).report()["pine"]
        assert ("importance" in note) == explain


async def test_the_reading_is_data() -> None:
    job = asked(Part("one", "documents"), Part("Why?"))
    specs = [(await run(Pine(explain=explain), job)).reading for explain in (True, True, False)]
    assert specs[0] == ReadingSpec("pine", (("explain", True),), cut="set")
    assert len(set(specs)) == 2


async def test_the_layers_are_part_of_the_reading() -> None:
    job = asked(Part("one", "documents"), Part("Why?"))
    spec = (await run(Pine(layers=(3, 9)), job)).reading
    assert spec == ReadingSpec("pine", (("explain", False), ("from", 3), ("to", 9)), cut="set")


@pytest.mark.parametrize(
    ("layers", "rule"),
    [
        ([3, 3], "'layers' must be two numbers, the first layer and the one after the last, got"),
        ([-1, 3], "'layers.0' must be greater than or equal to 0, got -1; correct it"),
        ([0], "field 'layers.1' "),
        ([0, 1.5], "field 'layers.1' must be a valid integer, got 1.5; correct it"),
    ],
)
def test_layers_that_name_none_are_refused(layers: list[float], rule: str) -> None:
    with pytest.raises(PlanError, match=rule) as caught:
        parse([{"stage": "pine", "layers": layers}])
    assert str(caught.value).startswith("stage 'pine' field 'layers")


def test_layers_that_the_model_has_not_are_refused() -> None:
    reading = Pine(layers=(1, 5)).reading
    assert refusal(reading, [LayerKind(None)] * 5) is None
    told = "stage 'pine' field 'layers' must end at 4 at most, as many layers has the model"
    with pytest.raises(PlanError, match=told):
        refusal(reading, [LayerKind(None)] * 4)


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(PlanError, match="reading must be one that this engine knows, got 'x'"):
        build(ReadingSpec("x"), None, Shelf(0))


async def test_candidates_become_a_set_in_canonical_order() -> None:
    for texts in (("b", "a", "c"), ("c", "a", "b")):
        passed = await run(Pine(), judged(*texts))
        assert passed.ballot is not None and passed.ballot.order is not None
        assert passed.ballot.as_documents
        assert [texts[index] for index in passed.ballot.order] == ["a", "b", "c"]
        assert isinstance(reading_of(passed), PineReading)


async def test_an_order_fixed_outside_is_kept() -> None:
    passed = await run(Pine(), judged("a", "b", order=(1, 0)))
    assert passed.ballot is not None and passed.ballot.order == (1, 0)


async def test_delimiters_cut_the_documents_out() -> None:
    passed = await run(Pine(delimiters=("<", ">")), asked(Part("<one> <two> Why?")))
    [message] = passed.prompts[0].messages  # type: ignore[union-attr]
    assert [part.group for part in message.parts] == ["documents", "documents", None]


async def test_the_readings_places_are_told_as_candidates() -> None:
    async def proceed(job: Job) -> Reply:
        told = {"documents": 3, "canonical_order": [2, 0, 1], "importance": [0.1, 0.2, 0.3]}
        return Reply(notes={"pine": told, "else": 1})

    reply = await Pine().run(judged("c", "a", "b"), proceed)  # slots show a, b, c = 1, 2, 0
    told = {"documents": 3, "canonical_order": [0, 1, 2], "importance": [0.3, 0.1, 0.2]}
    assert reply.notes == {"pine": told, "else": 1}


def test_two_sets_are_refused() -> None:
    job = asked(Part("one", "x"), Part("then"), Part("two", "x"))
    with pytest.raises(PlanError, match="must have one set of documents in a prompt, got 2"):
        Pine().prepare(job)


def test_delimiters_and_candidates_are_refused() -> None:
    with pytest.raises(PlanError, match="'delimiters' cannot be used with candidates"):
        Pine(delimiters=("<", ">")).prepare(judged("a", "b"))
