"""The rerank stage: what it asks for, and what the engine answers under it."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
from asking import Ask, usage

from kvedit.rerank import RerankReading
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from server.engines.readings import build
from server.errors import PlanError
from server.job import Job, ReadingSpec, Sampling
from server.judge.ballot import Ballot, Candidate, Case
from server.prompt import ChatPrompt, Message, Part, Prompt, TextPrompt
from server.stages.rerank import Rerank

SPEC = Rerank().reading
DOCUMENT = Part("one", "x")


def asked(*parts: Part) -> ChatPrompt:
    return ChatPrompt((Message("user", (Part("Read: "), *parts, Part("Who is red?"))),))


def test_the_reading_is_data() -> None:
    assert ReadingSpec("rerank", (("last", False),), cut="set") == SPEC
    segments = Segments((1,), ((3,), (2,)), (4,)).canonical()
    assert isinstance(build(SPEC, segments, Shelf(0)), RerankReading)


@pytest.mark.parametrize(
    "prompt",
    [
        ChatPrompt((Message("user", (Part("Who is red?"), DOCUMENT)),)),
        TextPrompt((Part("Who is red?"), DOCUMENT)),
        TextPrompt((Part("Who is red?"), DOCUMENT, Part(" \n"))),
    ],
    ids=["chat", "text", "white space"],
)
def test_documents_that_nothing_follows_are_refused(prompt: Prompt) -> None:
    with pytest.raises(PlanError, match="must have a question behind the documents"):
        Rerank().prepare(Job("m", Sampling(), prompts=(prompt,)))


def test_a_question_in_a_later_message_will_do() -> None:
    messages = (Message("user", (DOCUMENT,)), Message("user", (Part("Who is red?"),)))
    job = Job("m", Sampling(), prompts=(ChatPrompt(messages),))
    assert Rerank().prepare(job) == job


def test_candidates_are_refused() -> None:
    candidates = tuple(Candidate(str(i), text, i) for i, text in enumerate("ab"))
    with pytest.raises(PlanError, match="got candidates; use 'average'"):
        Rerank().prepare(Job("m", Sampling(), case=Case(Ballot("Q?", candidates))))


@pytest.mark.parametrize("best", ["first", "last"])
def test_every_order_gives_the_same_bits(
    ask: Ask, docs: tuple[Part, ...], best: Literal["first", "last"]
) -> None:
    answers = []
    for order in itertools.permutations(docs):
        chunks = ask(asked(*order), reading=Rerank(best=best).reading, logprobs=3,
                     labels=("A", "B"), max_tokens=4, deterministic=True)  # fmt: skip
        note = chunks[-1].notes["rerank"]
        shown = [order[place].text for place in note["order"]]
        scores = {order[place].text: score for place, score in enumerate(note["scores"])}
        ends = 0 if best == "first" else -1
        assert shown[ends] == max(scores, key=scores.__getitem__)
        answers.append((tuple(chunks[:-1]), chunks[-1].tokens, chunks[0].labels, shown, scores))
    assert all(answer == answers[0] for answer in answers)


def test_the_usage_is_of_the_prompt_alone(ask: Ask, docs: tuple[Part, ...]) -> None:
    chunks = ask(asked(*docs), reading=SPEC, max_tokens=3)
    assert usage(chunks).prompt_tokens == usage(ask(asked(*docs), max_tokens=3)).prompt_tokens
