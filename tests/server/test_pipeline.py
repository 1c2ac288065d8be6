"""The plan's refusals, each in one sentence, and the onion."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Literal

import pytest

from server import pipeline
from server.engines.base import Ability
from server.engines.scripted import Answer, Scripted, slot_lover
from server.errors import EngineError, PlanError
from server.job import (
    Ballot,
    Candidate,
    ChatPrompt,
    Chunk,
    Job,
    Message,
    Part,
    Reply,
    Sampling,
    TextPrompt,
    TokenPrompt,
)
from server.pipeline import MOST_STAGES, Plan, compose, plan
from server.stages.base import Claim, Level, Need, Proceed, Stage
from server.stages.pine import Pine
from server.stages.swap import Swap

ALL: tuple[Ability, ...] = ("text", "logprobs", "attention")
PINE, SWAP = {"stage": "pine"}, {"stage": "swap"}


def engine(*abilities: Ability, **refusals: str) -> Scripted:
    return Scripted(slot_lover(), abilities or ALL, refusals)


def job(*parts: Part) -> Job:
    return Job("m", Sampling(), prompts=(TextPrompt(parts or (Part("hello"),)),))


def with_documents() -> Job:
    return job(Part("one", "documents"), Part("two", "documents"), Part("Why?"))


def with_candidates(*texts: str) -> Job:
    candidates = tuple(Candidate(str(i), text, i) for i, text in enumerate(texts or ("x", "y")))
    return Job("m", Sampling(max_tokens=1, temperature=0), ballot=Ballot("Q?", candidates))


def refused(stages: object, on: Scripted | None = None, what: Job | None = None) -> str:
    with pytest.raises(PlanError) as caught:
        plan(stages, engine=on or engine(), job=what or with_candidates())
    assert caught.value.status == 400
    message = caught.value.message
    assert "\n" not in message and not message.endswith(".") and "; " in message
    assert ("must" in message or "cannot" in message) and ", got " in message
    return message


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("pine", 'stages must be a list, got \'pine\'; write [{"stage": "pine"}]'),
        ({"stage": "pine"}, 'stages must be a list, got {"stage": "pine"}; '),
        (["pine"], "stages[0] must be an object, got 'pine'; write one as in"),
        ([SWAP, None], "stages[1] must be an object, got null; "),
        ([{"stage": "pin"}], "got 'pin'; did you mean 'pine'?"),
        ([{"stage": "mamba"}], "stages[0] must be one of pine, swap, got 'mamba'; name one of"),
        ([{}], "stages[0] must be one of pine, swap, got null; "),
        ([{"stage": ["pine"]}], 'stages[0] must be one of pine, swap, got ["pine"]; '),
        ([{"stage": "x" * 999}], f"got '{'x' * 59}...; "),
        (
            [{"stage": "pine", "depth": 3}],
            "stage 'pine' field 'depth' must be one of delimiters, explain, got 3; remove or "
            "rename it",
        ),
        (
            [{"stage": "swap", "times": 2}],
            "stage 'swap' field 'times' must be left out, since the stage takes none, got 2; ",
        ),
        (
            [{"stage": "pine", "delimiters": "<d>"}],
            "stage 'pine' field 'delimiters' must be a valid tuple, got '<d>'; correct it",
        ),
        ([{"stage": "pine", "delimiters": ["<d>", 2]}], "field 'delimiters.1' must be a valid str"),
        ([{"stage": "pine", "delimiters": ["", "x"]}], "field 'delimiters.0' must"),
        ([PINE, PINE], "stage 'pine' must appear once, got 2 times; keep one"),
        ([PINE] * (MOST_STAGES + 1), f"stages must number at most {MOST_STAGES}, got 9; "),
        (
            [PINE, SWAP],
            "stage 'swap' must come before 'pine', since text is outside reading, "
            "got it after; put it first",
        ),
    ],
)
def test_a_list_that_is_no_pipeline_is_refused(stages: object, message: str) -> None:
    assert message in refused(stages)


def test_swap_needs_candidates() -> None:
    expected = "stage 'swap' must have candidates, got none; send them to /v1/judge"
    assert refused([SWAP], what=with_documents()) == expected


@pytest.mark.parametrize("prompt", [TextPrompt((Part("hello"),)), TokenPrompt((1, 2))])
def test_pine_needs_a_set_in_every_prompt(prompt: TextPrompt | TokenPrompt) -> None:
    for prompts in ((prompt,), (*with_documents().prompts, prompt)):
        message = refused([PINE], what=Job("m", Sampling(), prompts=prompts))
        assert message == (
            "stage 'pine' must have a set of documents or candidates, got none; "
            "send `documents`, content parts with a `group`, or candidates to /v1/judge"
        )


def test_pine_needs_attention_and_says_why_there_is_none() -> None:
    assert refused([PINE], engine("text")) == (
        "stage 'pine' must have an engine that offers attention, got none; "
        "leave the stage out or serve another model"
    )
    reasoned = refused([PINE], engine("text", attention="the model has no positions to turn"))
    assert "got a model without (the model has no positions to turn); " in reasoned


def test_needs_are_judged_after_delimiters_have_cut() -> None:
    cutting = [{"stage": "pine", "delimiters": ["<", ">"]}]
    assert plan(cutting, engine=engine(), job=job(Part("<one> <two> Why?"))).names == ("pine",)
    assert "must have a set of documents" in refused(cutting, what=job(Part("nothing to cut")))
    assert "must have its counterpart" in refused(cutting, what=job(Part("<one")))
    assert "cannot be used with candidates" in refused(cutting)


def test_two_sets_in_a_prompt_are_refused() -> None:
    two = job(Part("1", "x"), Part("and"), Part("2", "x"))
    assert "must have one set of documents in a prompt, got 2; " in refused([PINE], what=two)


def test_a_template_that_cannot_be_filled_is_refused_before_anything_runs() -> None:
    unfillable = with_candidates().but(ballot=Ballot("Q?", (), template="nothing"))
    assert "template must" in refused([], what=unfillable)


class Other(Stage):
    """A stage that sets positions, as pine does."""

    level: ClassVar[Level] = Level.READING
    needs: ClassVar[frozenset[Need]] = frozenset()
    claims: ClassVar[frozenset[Claim]] = frozenset({"positions"})
    stage: Literal["other"] = "other"
    answer: Any = None

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        return await proceed(job)


def test_two_stages_cannot_set_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = {"pine": Pine(), "other": Other()}
    monkeypatch.setattr(pipeline, "_parse", lambda stage, place: parsed[stage["stage"]])
    assert refused([PINE, {"stage": "other"}]) == (
        "stage 'other' cannot set the positions, got 'pine' which sets it already; "
        "leave one of them out"
    )


def test_a_plan_says_what_will_run() -> None:
    made = plan(
        [SWAP, {**PINE, "delimiters": None}], engine=engine(), job=with_candidates("x", "y", "z")
    )
    assert made.stages == (Swap(), Pine())
    assert made.wire() == [SWAP, PINE]
    assert made.calls(with_candidates("x", "y", "z")) == 3
    assert made.order_free and not plan([SWAP], engine=engine(), job=with_candidates()).order_free
    assert plan([], engine=engine(), job=job()) == Plan(())


def test_no_stage_can_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Pine().delimiters = ("<", ">")


async def test_stages_wrap_the_engine_first_one_outermost() -> None:
    trace = []

    class Tracing(Other):
        async def run(self, job: Job, proceed: Proceed) -> Reply:
            trace.append(f"in {self.answer}")
            reply = await proceed(job.but(model=job.model + self.answer))
            trace.append(f"out {self.answer}")
            return reply

    on = engine()
    run = compose(Plan((Tracing(answer="1"), Tracing(answer="2"))), on)
    reply = await run(job())
    assert trace == ["in 1", "in 2", "out 2", "out 1"]
    assert on.jobs[0].model == "m12"
    assert reply.chunks is not None
    assert [chunk.finish_reason async for chunk in reply.chunks][-1] == "stop"


async def test_no_stage_is_skipped() -> None:
    on = engine()
    stages = plan([SWAP, PINE], engine=on, job=with_candidates())
    reply = await compose(stages, on)(with_candidates())
    assert [call.order for call in reply.calls] == [(0, 1), (1, 0)]
    assert all(call.stages == ("swap", "pine") for call in reply.calls)
    for seen in on.jobs:
        [message] = seen.prompts[0].messages  # type: ignore[union-attr]
        assert sum(part.group is not None for part in message.parts) == 2
        assert seen.reader is not None


async def test_a_plain_ballot_keeps_the_callers_order_and_the_stock_path() -> None:
    on = engine()
    [call] = (await compose(Plan(()), on)(with_candidates("y", "x"))).calls
    assert call.order == (0, 1)
    assert on.jobs[0].reader is None
    [message] = on.jobs[0].prompts[0].messages  # type: ignore[union-attr]
    assert message == Message("user", message.parts)
    assert all(part.group is None for part in message.parts)


async def test_a_failing_call_leaves_nothing_running() -> None:
    on = Scripted([Answer("A", {"A": -0.1, "B": -3.0, "T": -9.0})])  # nothing for the second call
    with pytest.raises(EngineError, match="script must have an answer left"):
        await compose(Plan((Swap(),)), on)(with_candidates())
    assert on.running == 0


class Waiting:
    """A stream that never comes to anything, and counts how often it is closed."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.closed = 0

    def __aiter__(self) -> Waiting:
        return self

    async def __anext__(self) -> Chunk:
        self.reached.set()
        await asyncio.Event().wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_cancelled_judge_closes_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    on, streams = engine(), [Waiting(), Waiting()]
    left = iter(streams)
    monkeypatch.setattr(on, "_stream", lambda job: next(left))
    work = asyncio.ensure_future(compose(Plan((Swap(),)), on)(with_candidates()))
    async with asyncio.timeout(5):
        for stream in streams:
            await stream.reached.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert [stream.closed for stream in streams] == [1, 1]


def test_chat_prompts_have_sets_too() -> None:
    message = Message("user", (Part("one", "documents"), Part("Why?")))
    chat = Job("m", Sampling(), prompts=(ChatPrompt((message,)),))
    assert plan([PINE], engine=engine(), job=chat).names == ("pine",)
