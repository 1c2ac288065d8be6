"""Synthesize: what was said before is shown, by whom and of which answers."""

from __future__ import annotations

from ballots import ballot, changed, judging

from server.chunk import Usage
from server.job import Job, Reply
from server.judge.ballot import Call
from server.stages.synthesize import Synthesize


async def passed(stage: int, job: Job) -> Job:
    """Return the job as the stage of one of its rungs passes it on."""
    seen: list[Job] = []

    async def proceed(each: Job) -> Reply:
        seen.append(each)
        return Reply()

    await Synthesize().rungs()[stage].stages[0].run(job, proceed)
    return seen[0]


async def test_the_first_rung_asks_for_evidence() -> None:
    found = (await passed(0, judging())).ballot
    assert found is not None and found.evidence and not found.debate


async def test_the_second_shows_what_the_first_said() -> None:
    said = tuple(
        Call(ballot(order=order, lettering="random"), (), None, "A", 0, None, text, Usage())
        for order, text in (((0, 1), "one"), ((1, 0), "two"))
    )
    found = (await passed(1, changed(judging(), history=said))).ballot
    assert found is not None and not found.evidence
    assert [each.text for each in found.debate] == ["one", "two"]
    assert [each.order for each in found.debate] == [(0, 1), (1, 0)]
    assert found.debate[0].letters != found.debate[1].letters  # each its own


def test_its_rungs() -> None:
    assert [rung.name for rung in Synthesize().rungs()] == ["evidence", "synthesize"]
