"""PORTIA: cut once, on a canonical order, and nothing is lost."""

from __future__ import annotations

from typing import Any

from ballots import judging
from hypothesis import given
from hypothesis import strategies as st
from judges import quick

from server.job import Job, Reply
from server.judge.ballot import Ballot
from server.stages.portia import Parted, Portia

sentences = st.lists(st.sampled_from(["Red. ", "Blue! ", "- item\n", "So it is. "]), max_size=6)
texts = sentences.map("".join)


async def cut(stage: Parted, job: Job) -> tuple[Ballot, Reply]:
    seen: list[Job] = []

    async def proceed(each: Job) -> Reply:
        seen.append(each)
        return Reply(notes={"inner": 1})

    reply = await stage.run(job, proceed)
    [only] = seen
    assert only.ballot is not None
    return only.ballot, reply


def rungs(**fields: Any) -> list[Parted]:
    stages = [rung.stages[0] for rung in Portia(**fields).rungs() if rung.stages]
    found = [stage for stage in stages if isinstance(stage, Parted)]
    assert len(found) == len(stages)
    return found


@quick
@given(texts, texts, st.integers(1, 4))
async def test_parts_join_to_the_answers_and_mirror(x: str, y: str, count: int) -> None:
    for stage in rungs(parts=count):
        one, _ = await cut(stage, judging(x, y))
        other, _ = await cut(stage, judging(y, x))
        assert one.parts == other.parts[::-1]
        if one.parts:
            assert ["".join(parts) for parts in one.parts] == [x, y]
            assert 2 <= len(one.parts[0]) == len(one.parts[1]) <= count


async def test_an_answer_of_one_unit_makes_it_the_plain_prompt() -> None:
    for stage in rungs():
        found, reply = await cut(stage, judging("One sentence", "Red. Blue. Green."))
        assert found == judging("One sentence", "Red. Blue. Green.").ballot
        assert reply.notes == {"portia": {"parts": 1}, "inner": 1}


async def test_a_form_of_its_own() -> None:
    for stage in rungs(form="likert"):
        found, _ = await cut(stage, judging("Red. Blue.", "One. Two.", form="score"))
        assert found.form == "likert"
    found, _ = await cut(rungs()[0], judging("Red. Blue.", "One. Two.", form="score"))
    assert found.form == "score"


def test_it_starts_with_whole_answers_if_asked_to() -> None:
    names = [rung.name for rung in Portia(start="original").rungs()]
    assert names == ["swap", "portia length", "portia meaning"]
    assert [rung.name for rung in Portia().rungs()] == names[1:]
    assert [stage.how for stage in rungs()] == ["length", "meaning"]
