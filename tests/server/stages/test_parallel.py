"""The parallel stage: what it makes of a job, and what the engine answers under it."""

from __future__ import annotations

import itertools

import pytest
from asking import Ask, usage

from kvedit.parallel import SMALLEST_DOCUMENT, ParallelReading
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from server.engines.readings import build
from server.errors import PlanError
from server.job import Job, ReadingSpec, Reply, Sampling
from server.judge.ballot import Ballot, Candidate, Case
from server.prompt import ChatPrompt, Message, Part
from server.stages.parallel import Parallel

SPEC = Parallel().reading


def judged(*texts: str) -> Job:
    candidates = tuple(Candidate(str(i), text, i) for i, text in enumerate(texts))
    return Job("m", Sampling(), case=Case(Ballot("Q?", candidates)))


def asked(*parts: Part) -> ChatPrompt:
    return ChatPrompt((Message("user", (Part("Read: "), *parts, Part("Who is red?"))),))


def test_the_reading_is_data() -> None:
    assert ReadingSpec("parallel", cut="set") == SPEC
    segments = Segments((1,), ((3,), (2,)), (4,)).canonical()
    assert isinstance(build(SPEC, segments, Shelf(0)), ParallelReading)


async def test_candidates_become_a_set_in_canonical_order() -> None:
    for texts in (("b", "a", "c"), ("c", "a", "b")):
        seen: list[Job] = []

        async def proceed(job: Job, seen: list[Job] = seen) -> Reply:
            seen.append(job)
            return Reply(notes={"parallel": {"documents": 3, "canonical_order": [0, 1, 2]}})

        reply = await Parallel().run(judged(*texts), proceed)
        [passed] = seen
        assert passed.reading == SPEC
        assert passed.ballot is not None and passed.ballot.as_documents
        assert [texts[place] for place in passed.ballot.slots] == ["a", "b", "c"]
        told = reply.notes["parallel"]["canonical_order"]
        assert [texts[place] for place in told] == ["a", "b", "c"]


def test_two_sets_are_refused() -> None:
    parts = (Part("one", "x"), Part("then"), Part("two", "x"))
    with pytest.raises(PlanError, match="stage 'parallel' must have one set of documents"):
        Parallel().prepare(Job("m", Sampling(), prompts=(asked(*parts),)))


def test_every_order_gives_the_same_bits(ask: Ask, docs: tuple[Part, ...]) -> None:
    answers = []
    for order in itertools.permutations(docs):
        chunks = ask(asked(*order), reading=SPEC, logprobs=3, labels=("A", "B"), max_tokens=4,
                     deterministic=True)  # fmt: skip
        shown = [order[place].text for place in chunks[-1].notes["parallel"]["canonical_order"]]
        answers.append((tuple(chunks[:-1]), chunks[-1].tokens, chunks[0].labels, shown))
    assert all(answer == answers[0] for answer in answers)


def test_a_document_is_cached_for_any_set(ask: Ask) -> None:
    """One that stands between others, and not at the beginning, counts as cached."""
    low, high, new = (
        Part(f"{name} {'fox ' * SMALLEST_DOCUMENT}", "documents") for name in ("a", "c", "b")
    )
    ask(asked(low, high), reading=SPEC, max_tokens=1, deterministic=True)
    apart = ask(asked(new), reading=SPEC, max_tokens=1, deterministic=True)
    mixed = ask(asked(low, new, high), reading=SPEC, max_tokens=1, deterministic=True)
    told, total = usage(mixed), usage(apart)
    prefix_and_new = total.cached_tokens
    assert 0 < prefix_and_new < told.cached_tokens < told.prompt_tokens
    assert told.prompt_tokens - told.cached_tokens < SMALLEST_DOCUMENT  # only the question is read
