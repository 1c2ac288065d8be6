"""The slot bias: learnt from two calls, and taken from one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ballots import ballot
from hypothesis import given
from hypothesis import strategies as st

from portia.verdict import TIE
from server.chunk import Usage
from server.judge.ballot import Call, Case
from server.judge.bias import corrected, key, lead, learn
from server.judge.calibration import Calibration

value = st.floats(-30, 0, allow_nan=False)


def call(first: float, second: float, choice: int | None = 0, **changes: Any) -> Call:
    logprobs = {"A": first, "B": second, "T": changes.pop("tie", -99.0)}
    made = Call(ballot(), ("A", "B", "T"), logprobs, "A", choice, (first, second), "A", Usage())
    return replace(made, **changes)


def test_the_key_tells_what_the_bias_depends_on() -> None:
    case = Case(ballot(), "fp")
    keys = [
        key(case, ballot(**changes))
        for changes in (
            {},
            {"template": "rubric"},
            {"template": "{question}{candidates}"},
            {"template": "{candidates}{question}"},
            {"form": "likert"},
            {"lettering": "random"},
            {"as_documents": True},
            {"ties": False},
        )
    ]
    assert len({*keys, key(Case(ballot(), "other"), ballot())}) == len(keys) + 1
    scores = [key(case, ballot(form="score", ties=ties)) for ties in (True, False)]
    assert scores[0] == scores[1]  # numbers are asked for alike
    assert key(case, ballot("other", "texts", order=(1, 0), question="W?")) == keys[0]


async def test_two_calls_in_both_orders_teach_it() -> None:
    store = Calibration(None)
    case = Case(ballot(), "fp", store)
    await learn(case, [call(-0.5, -1.5), call(-1.0, -4.0)])
    known = store.of(key(case, ballot()))
    assert known is not None
    assert (known.mean, known.count) == (2.0, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        [call(-1, -2)],
        [call(-1, -2), call(-1, -2, None)],
        [call(-1, -2), call(-1, -2, values=None)],
        [call(-1, -2), call(-1, -2, repeated=True)],
        [call(-1, -2), call(-1, -2, ballot=ballot(evidence=True))],
        [call(-1, -2), call(-1, -2, ballot=ballot(parts=(("x",), ("y",))))],
        [call(-1, -2)] * 3,
    ],
)
async def test_nothing_is_learnt_from_other_calls(wrong: list[Call]) -> None:
    store = Calibration(None)
    await learn(Case(ballot(), "fp", store), wrong)
    assert not store.all()


async def test_a_fault_of_the_store_does_not_spoil_the_verdict(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Calibration(tmp_path / "biases")
    store.close()
    await learn(Case(ballot(), "fp", store), [call(-1, -2), call(-1, -2)])
    assert "calibration file must be" in caplog.text
    await learn(Case(ballot()), [call(-1, -2), call(-1, -2)])  # without a store nothing happens


@given(value, value, value, st.floats(-9, 9))
def test_a_corrected_lead_is_less_by_the_bias(
    first: float, second: float, tie: float, bias: float
) -> None:
    found = corrected(call(first, second, tie=tie), bias)
    assert found.values is not None
    assert lead(found) == pytest.approx(first - second - bias, abs=1e-9)
    assert sum(found.values) == pytest.approx(first + second)
    if tie >= max(found.values) or first - second == bias:
        assert found.choice == TIE
    else:
        assert found.choice == (0 if first - second > bias else 1)


@given(value, value)
def test_a_judge_of_slots_is_left_without_a_choice(first: float, second: float) -> None:
    found = corrected(call(first, second), first - second)
    assert lead(found) == 0
    assert found.choice == TIE


def test_points_tie_below_half_a_point() -> None:
    scores = ballot(form="score")
    for first, second, choice in ((8, 7.6, TIE), (8, 7, 0), (7, 8, 1)):
        made = call(first, second, ballot=scores)
        assert corrected(made, 0.2).choice == choice
    unread = call(1, 2, None)
    assert corrected(unread, 1.0).choice is None
    assert corrected(call(1, 2, values=None), 1.0) == call(1, 2, values=None)


def test_the_key_is_that_of_the_template_and_the_labels_that_were_used() -> None:
    case = Case(ballot(), "fp")
    shown = [
        ballot(template=template, lettering=labels)
        for template in ("plain", "chat", "chat-strict")
        for labels in ("fixed", "random", "numbers", "ordinals", "brackets")
    ]
    keys = [key(case, each) for each in shown]
    assert len(set(keys)) == len(keys)
    assert [(each.template, each.labels) for each in keys] == [
        (each.template, each.lettering) for each in shown
    ]
