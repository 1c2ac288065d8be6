"""The ladder: rungs in turn until the orders agree, within the calls that are allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ballots import judging, written

from server.engines.scripted import Answer, Script, Scripted, content_judge, slot_lover
from server.job import Job, Reply, Sampling
from server.judge.ladder import climb
from server.pipeline import plan

LADDER = [{"stage": "swap"}, {"stage": "portia"}, {"stage": "pine"}]
X, Y = "Red. Blue. Green. Black.", "One. Two. Three. Four."


async def climbed(
    script: Script | Sequence[Answer],
    stages: Sequence[Any] = LADDER,
    job: Job | None = None,
    most: int | None = None,
) -> tuple[Reply, Scripted]:
    """Return the reply, and the engine that was asked."""
    engine = Scripted(script, ("text", "logprobs", "attention"))
    asked = job or judging(X, Y)
    return await climb(plan(stages, engine=engine, job=asked), engine, most)(asked), engine


def agreeing_from(marker: str, *, on: str = X) -> Script:
    """Return a judge of slots that sees the better answer once the prompt has the marker."""
    slot, content = slot_lover(), content_judge(lambda text, _: 3.0 if text == on else 0.0)
    return lambda prompt, sampling: (content if marker in prompt else slot)(prompt, sampling)


async def test_the_first_agreement_ends_it() -> None:
    reply, engine = await climbed(content_judge(lambda text, slot: len(text)))
    assert (reply.rung, len(engine.works)) == ("swap", 2)
    assert "ladder" not in reply.notes


async def test_parts_in_turn_settle_it_on_their_rung() -> None:
    reply, engine = await climbed(agreeing_from(", part 1: "))
    assert reply.rung == "portia length"
    assert [call.stages for call in reply.calls] == [("swap",)] * 2 + [("portia", "swap")] * 2
    assert len(reply.votes) == 2
    tried = reply.notes["ladder"]["tried"]
    assert [(each["rung"], each["status"], each["calls"]) for each in tried] == [
        ("swap", "order_conflict", 2),
        ("portia length", "consistent", 2),
    ]
    assert tried[1]["notes"]["portia"] == {"parts": 3}
    assert not reply.notes["ladder"]["stopped"]
    assert len(engine.works) == 4


async def test_a_judge_of_slots_climbs_to_the_end() -> None:
    reply, engine = await climbed(slot_lover())
    rungs = [each["rung"] for each in reply.notes["ladder"]["tried"]]
    assert rungs == ["swap", "portia length", "portia meaning", "pine"]
    assert reply.rung is None
    assert {each["status"] for each in reply.notes["ladder"]["tried"]} == {"order_conflict"}
    assert sum(work.reading is not None for work in engine.works) == 2


@pytest.mark.parametrize("most", range(2, 10))
async def test_it_stops_before_the_calls_run_out(most: int) -> None:
    reply, engine = await climbed(slot_lover(), most=most)
    assert len(engine.works) <= len(reply.calls) <= most
    assert len(reply.calls) == min(most - most % 2, 8)
    ladder = reply.notes.get("ladder")
    assert (ladder is not None and ladder["stopped"]) == (most < 8)


async def test_pairs_share_the_calls() -> None:
    stages = [{"stage": "pairwise"}, *LADDER]
    for most, calls in ((6, 6), (11, 6), (12, 12), (24, 24)):
        reply, _ = await climbed(slot_lover(), stages, judging(X, Y, "a. b. c."), most)
        assert len(reply.calls) == calls


async def test_a_prompt_is_not_asked_twice() -> None:
    reply, engine = await climbed(slot_lover(), job=judging("One sentence.", "Another one."))
    assert len({prompt for work in engine.works for prompt in map(str, work.prompts)}) == 4
    assert len(engine.works) == 4  # answers of one unit have one part: portia's prompt is swap's
    assert [call.repeated for call in reply.calls] == [False] * 2 + [True] * 4 + [False] * 2
    again = [call for call in reply.calls if call.repeated]
    assert all(call.usage.prompt_tokens == 0 for call in again)
    assert [call.verdict for call in again] == ["A"] * 4


async def test_both_explanations_are_shown_after_a_conflict() -> None:
    seen: list[str] = []

    def script(prompt: str, sampling: Sampling) -> Answer:
        seen.append(prompt)
        if "Judge 2, for whom" in prompt:
            return content_judge(lambda text, _: 3.0 if text == "y" else 0.0)(prompt, sampling)
        return Answer(f"Because of {prompt.count('x')}.\nVerdict: [[A]]")

    stages = [{"stage": "synthesize"}]
    reply, engine = await climbed(script, stages, judging("x", "y"))
    assert reply.rung == "synthesize"
    assert [call.verdict for call in reply.calls] == ["A", "A", "B", "A"]
    assert [work.sampling.labels for work in engine.works] == [()] * 2 + [("A", "B", "T")] * 2
    explained = [call.text for call in reply.calls[:2]]
    for prompt in seen[2:]:
        assert all(text in prompt for text in explained)
    assert reply.calls[2].ballot.debate[0].order == (0, 1)


async def test_the_votes_are_those_of_the_last_rung() -> None:
    reply, _ = await climbed(slot_lover())
    assert [vote.values for vote in reply.votes] == [call.values for call in reply.calls[-2:]]
    assert written(reply.calls[-1].ballot).count("Answer ") == 2
