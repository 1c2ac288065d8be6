"""The plan: what will run, and every refusal in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from ballots import judging

from server.engines.base import Ability
from server.engines.scripted import Scripted, slot_lover
from server.errors import PlanError
from server.job import Job, Sampling
from server.pipeline import MOST_STAGES, Plan, plan
from server.prompt import ChatPrompt, Message, Part, TextPrompt, TokenPrompt
from server.stages import KNOWN
from server.stages.pine import Pine
from server.stages.swap import Swap

ALL: tuple[Ability, ...] = ("text", "logprobs", "attention")
PINE, SWAP, PAIRWISE = {"stage": "pine"}, {"stage": "swap"}, {"stage": "pairwise"}
NAMES = ", ".join(KNOWN)
PORTIA, SAMPLE = {"stage": "portia"}, {"stage": "sample"}
PROBE = {"stage": "calibrate", "probe": "self"}


def engine(*abilities: Ability, **refusals: str) -> Scripted:
    return Scripted(slot_lover(), abilities or ALL, refusals)


def job(*parts: Part) -> Job:
    return Job("m", Sampling(), prompts=(TextPrompt(parts or (Part("hello"),)),))


def with_documents() -> Job:
    return job(Part("one", "documents"), Part("two", "documents"), Part("Why?"))


def refused(stages: object, on: Scripted | None = None, what: Job | None = None) -> str:
    with pytest.raises(PlanError) as caught:
        plan(stages, engine=on or engine(), job=what or judging())
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
        (
            [{"stage": "mamba"}],
            f"stages[0] must be one of {NAMES}, got 'mamba'; name one of",
        ),
        (
            [{}],
            f"stages[0] must be one of {NAMES}, got null; ",
        ),
        (
            [{"stage": ["pine"]}],
            f'stages[0] must be one of {NAMES}, got ["pine"]; ',
        ),
        ([{"stage": "x" * 999}], f"got '{'x' * 59}...; "),
        (
            [{"stage": "pine", "depth": 3}],
            "stage 'pine' field 'depth' must be one of delimiters, explain, layers, got 3; remove "
            "or rename it",
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
        ([{f"f{n}": n for n in range(65)}], "stages[0] must have at most 64 fields, got 65; "),
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
    unfillable = judging(template="nothing")
    assert "template must" in refused([], what=unfillable)


def test_two_stages_that_run_together_cannot_set_the_same() -> None:
    assert refused([{"stage": "calibrate", "probe": "self"}, SWAP]) == (
        "stage 'swap' cannot set the order, got 'calibrate' which sets it already; "
        "leave one of them out"
    )
    for stage in (PORTIA, {"stage": "synthesize"}):
        assert "cannot set the order, got 'calibrate'" in refused([PROBE, stage])
    assert "'sample' cannot set the answer, got 'calibrate'" in refused([PROBE, SAMPLE])
    # the rungs of a ladder do not run together
    plan([SWAP, PORTIA, {"stage": "synthesize"}, PINE], engine=engine(), job=judging())


@pytest.mark.parametrize(
    ("stages", "ways"),
    [
        ([], {"": []}),
        ([SWAP], {"swap": ["swap"]}),
        ([PINE], {"pine": ["pine"]}),
        ([SWAP, PINE], {"swap": ["swap", "pine"]}),
        ([SAMPLE], {"swap": ["swap", "sample"]}),
        ([SWAP, SAMPLE], {"swap": ["swap", "sample"]}),
        ([SAMPLE, PINE], {"sample": ["sample", "pine"]}),
        ([PROBE], {"": []}),
        ([PAIRWISE], {"swap": ["swap"]}),
        ([PAIRWISE, PINE], {"pine": ["pine"]}),
        ([PAIRWISE, PROBE], {"": []}),
        ([PORTIA], {"portia length": ["portia", "swap"], "portia meaning": ["portia", "swap"]}),
        (
            [SWAP, PORTIA, PINE],
            {
                "swap": ["swap"],
                "portia length": ["portia", "swap"],
                "portia meaning": ["portia", "swap"],
                "pine": ["swap", "pine"],
            },
        ),
        (
            [{**PORTIA, "start": "original"}, SWAP],
            {
                "swap": ["swap"],
                "portia length": ["portia", "swap"],
                "portia meaning": ["portia", "swap"],
            },
        ),
        (
            [{"stage": "synthesize"}, SAMPLE, PINE],
            {
                "evidence": ["evidence", "swap", "sample"],
                "synthesize": ["synthesize", "swap", "sample"],
                "pine": ["swap", "sample", "pine"],
            },
        ),
    ],
)
def test_the_ways_of_a_plan(stages: list[Any], ways: dict[str, list[str]]) -> None:
    made = plan(stages, engine=engine(), job=judging())
    found = {rung.name: [stage.stage for stage in rung.stages] for rung in made.rungs}
    assert found == ways
    assert list(found) == list(ways)  # they are tried in this order
    assert made.wire() == stages


@pytest.mark.parametrize(
    ("stages", "candidates", "calls"),
    [
        ([], 3, 1),
        ([SWAP], 3, 3),
        ([PINE], 3, 1),
        ([SWAP, PORTIA, PINE], 2, 2),
        ([SWAP, SAMPLE], 2, 10),
        ([PROBE], 2, 3),
        ([{**PROBE, "probe": "content-free"}, PINE], 2, 4),
        ([PAIRWISE], 4, 12),
        ([PAIRWISE, PINE], 4, 6),
        ([PAIRWISE, PROBE], 3, 9),
        ([PAIRWISE, PORTIA], 3, 6),
    ],
)
def test_the_least_calls_of_a_plan(stages: list[Any], candidates: int, calls: int) -> None:
    job = judging(*map(str, range(candidates)))
    assert plan(stages, engine=engine(), job=job).calls(job) == calls


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([PORTIA], "stage 'portia' must have two candidates, got 3; put stage 'pairwise' first"),
        ([PROBE], "stage 'calibrate' must have two candidates, got 3; put stage 'pairwise' first"),
        (
            [SWAP, PAIRWISE],
            "stage 'pairwise' must come before 'swap', since ranking is outside te",
        ),
        ([PROBE, PAIRWISE], "stage 'pairwise' must come before 'calibrate', since ranking is outs"),
        (
            [{"stage": "calibrate"}],
            "stage 'calibrate' must know the slot bias from at least 20 verdicts, got 0 of this "
            "model, template, form and labels; send requests with stage 'swap', which show it, or "
            "give the field 'probe'",
        ),
        ([{**PORTIA, "parts": 0}], "stage 'portia' field 'parts' must be greater than or equal"),
        ([{**PORTIA, "start": "end"}], "stage 'portia' field 'start' must be 'length' or 'origin"),
        ([{**SAMPLE, "k": 0}], "stage 'sample' field 'k' must be greater than or equal to 1, got"),
        ([{**PORTIA, "how": "length"}], "field 'how' must be one of parts, form, start, language"),
    ],
)
def test_stages_of_the_judge_that_cannot_run_are_refused(stages: list[Any], told: str) -> None:
    three = "two candidates" in told
    assert told in refused(stages, what=judging("x", "y", "z") if three else judging())


@pytest.mark.parametrize(
    "name", ["swap", "portia", "sample", "synthesize", "calibrate", "pairwise"]
)
def test_stages_of_the_judge_need_candidates(name: str) -> None:
    expected = f"stage {name!r} must have candidates, got none; send them to /v1/judge"
    assert refused([{"stage": name}], what=with_documents()) == expected


def test_calibrate_needs_logprobs_and_pairwise_makes_room_for_forms_of_two() -> None:
    assert "'calibrate' must have an engine that offers logprobs" in refused(
        [PROBE], engine("text")
    )
    likert = judging("x", "y", "z", form="likert")
    assert "form 'likert' must have 2 candidates, got 3" in refused([SWAP], what=likert)
    plan([PAIRWISE], engine=engine(), job=likert)
    inline = judging(template="{question}{candidates}")
    assert "template must contain {task}" in refused([SAMPLE], what=inline)
    assert "template must contain {task}" in refused([{"stage": "synthesize"}], what=inline)


def test_a_plan_says_what_will_run() -> None:
    made = plan([SWAP, {**PINE, "delimiters": None}], engine=engine(), job=judging("x", "y", "z"))
    assert made.stages == (Swap(), Pine())
    assert made.wire() == [SWAP, PINE]
    assert made.calls(judging("x", "y", "z")) == 3
    assert made.order_free and not plan([SWAP], engine=engine(), job=judging()).order_free
    assert plan([], engine=engine(), job=job()) == Plan(())


def test_no_stage_can_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Pine().delimiters = ("<", ">")  # type: ignore[misc]


def test_chat_prompts_have_sets_too() -> None:
    message = Message("user", (Part("one", "documents"), Part("Why?")))
    chat = Job("m", Sampling(), prompts=(ChatPrompt((message,)),))
    assert plan([PINE], engine=engine(), job=chat).names == ("pine",)
