"""One call: what is asked of the engine, and what is read from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ballots import ballot, written

from portia.verdict import TIE, Vote
from server.chunk import Chunk, Usage
from server.engines.scripted import Answer, Scripted, chosen
from server.job import Job, Sampling
from server.judge.ballot import Call
from server.judge.call import EVIDENCE_TOKENS, judge, read, vote
from server.judge.forms import LEAST

JOB = Job("m", Sampling())


async def called(engine: Scripted, job: Job = JOB, **changes: Any) -> Call:
    [call] = (await judge(job, ballot(**changes), engine, ())).calls
    return call


async def test_a_call_reads_the_labels_and_not_the_text() -> None:
    engine = Scripted([Answer("B", chosen({"A": 3.0, "B": 0.0, "T": 0.0}).labels)])
    reply = await judge(JOB, ballot(), engine, ("swap",))
    [call] = reply.calls
    assert (call.verdict, call.choice, call.text, call.order) == ("A", 0, "B", (0, 1))
    assert call.stages == ("swap",)
    assert call.logprobs is not None
    assert call.values == (call.logprobs["A"], call.logprobs["B"])
    assert call.usage.completion_tokens == 1
    assert engine.works[0].sampling.labels == ("A", "B", "T")
    assert engine.works[0].sampling.max_tokens == 1


async def test_without_logprobs_no_labels_are_asked_for_and_the_text_is_read() -> None:
    engine = Scripted([Answer("[[B]]"), Answer("maybe")], abilities=("text",))
    first, second = await called(engine), await called(engine)
    assert (first.verdict, first.choice, first.logprobs, first.values) == ("B", 1, None, None)
    assert (second.verdict, second.choice) == (None, None)
    assert engine.works[0].sampling.labels == ()


async def test_a_label_that_cannot_be_said_stays_finite() -> None:
    engine = Scripted([Answer("A", {"A": 0.0, "B": -math.inf, "T": -math.inf})])
    call = await called(engine)
    assert call.verdict == "A"
    assert call.logprobs is not None and call.logprobs["B"] == LEAST


async def test_notes_and_usage_come_from_the_last_chunk() -> None:
    class Noting(Scripted):
        def _chunks(self, index: int, prompt: str, sampling: Sampling) -> list[Chunk]:
            *chunks, last = super()._chunks(index, prompt, sampling)
            return [*chunks, Chunk(0, usage=last.usage, notes={"pine": {"documents": 2}})]

    engine = Noting([Answer("A", {"A": -0.1, "B": -3.0, "T": -9.0})])
    reply = await judge(JOB, ballot(), engine, ())
    assert reply.notes == {"pine": {"documents": 2}}
    assert engine.running == 0


async def test_scores_follow_a_grammar_where_there_is_one() -> None:
    engine = Scripted([Answer("8 6")] * 2, abilities=("text", "logprobs", "grammar"))
    call = await called(engine, form="score")
    assert (call.verdict, call.choice, call.values) == ("8 6", 0, (8.0, 6.0))
    assert engine.works[0].sampling.grammar is not None
    assert engine.works[0].sampling.labels == ()
    await called(engine, form="score", evidence=True)
    assert engine.works[1].sampling.grammar is None  # nothing holds an explanation back
    plain = Scripted([Answer("8 6")])
    await called(plain, form="score")
    assert plain.works[0].sampling.grammar is None
    assert (plain.works[0].sampling.max_tokens or 0) >= 4


async def test_likert_weighs_the_points() -> None:
    engine = Scripted([Answer("x", chosen({"1": 0, "2": 0, "3": 1, "4": 5, "5": 0}).labels)])
    call = await called(engine, form="likert")
    assert engine.works[0].sampling.labels == ("1", "2", "3", "4", "5")
    assert (call.verdict, call.choice) == ("4", 1)
    assert call.labels == ("A", "B")


async def test_evidence_is_read_to_its_end() -> None:
    quoted = "The answer says Verdict: [[A]], wrongly.\nVerdict: [[B]]"
    engine = Scripted([Answer(quoted)] * 2)
    call = await called(engine, evidence=True)
    assert (call.verdict, call.logprobs, call.text) == ("B", None, quoted)
    assert engine.works[0].sampling.max_tokens == EVIDENCE_TOKENS
    assert engine.works[0].sampling.labels == ()
    # cut off where the quotation ends, it would seem to conclude
    cut = await called(engine, Job("m", Sampling(max_tokens=5)), evidence=True)
    assert cut.text == "The answer says Verdict: [[A]],"
    assert cut.verdict is None


async def test_an_explanation_that_is_cut_behind_a_quotation_is_no_verdict() -> None:
    engine = Scripted([Answer("It claims\nVerdict: [[A]]\nwhich is wrong.\nVerdict: [[B]]")])
    call = await called(engine, Job("m", Sampling(max_tokens=4)), evidence=True)
    assert call.text.endswith("Verdict: [[A]]")
    assert (call.verdict, call.choice) == (None, None)


async def test_most_of_several_answers_decide() -> None:
    said = ["no\nVerdict: [[A]]", "Verdict: [[B]]", "yes\nVerdict: [[B]]", "hm"]
    engine = Scripted([Answer(text) for text in said])
    call = await called(engine, Job("m", Sampling(n=4)), evidence=True)
    assert (call.verdict, call.choice, call.text) == ("B", 1, "Verdict: [[B]]")
    assert [sample.verdict for sample in call.samples] == ["A", "B", "B", None]
    assert [sample.text for sample in call.samples] == said
    words = len(written(ballot(evidence=True)).split())
    assert call.usage == Usage(words, sum(len(text.split()) for text in said))


@pytest.mark.parametrize(
    "said", ["", " ", "\n", "🙂", "\u202eA", "```python\nprint('A')\n```", "A" * 200_000]
)
@pytest.mark.parametrize("form", ["relation", "score", "likert"])
@pytest.mark.parametrize("evidence", [False, True])
async def test_no_answer_breaks_the_reading(said: str, form: str, evidence: bool) -> None:
    engine = Scripted([Answer(said)], abilities=("text",))
    call = await called(engine, form=form, evidence=evidence)
    assert (call.verdict, call.choice, call.values) == (None, None, None)


def test_no_chunk_at_all_is_unparsed() -> None:
    call = read(ballot(), [])
    assert (call.verdict, call.text, call.usage) == (None, "", Usage())


def test_a_vote_is_for_places() -> None:
    found = []
    for choice in (0, 1, TIE, None):
        made = ballot("x", "y", order=(1, 0))
        call = Call(made, ("A", "B", "T"), None, None, choice, (2.0, 1.0), "", Usage())
        found.append(vote(call))
    assert [each.choice for each in found] == [1, 0, TIE, None]
    assert found[0] == Vote((1, 0), 1, (2.0, 1.0))
