"""The figures of a record: the choices of the calls, the verdicts of the replies."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.scripted import Script, Scripted, content_judge, slot_lover
from trials.datasets import TIE, Item
from trials.methods import METHODS
from trials.records import Records
from trials.report.figures import Report, item
from trials.report.rows import PREFERENCES, WORTH
from trials.report.terminal import remarks
from trials.trial import Judge, trial


def opinionated(text: str, slot: int) -> float:
    """Return a logit that depends on an answer's text and on its slot, unevenly."""
    return math.sin(sum(map(ord, text)) * 1.7) * 2 + math.cos(slot * 2.3 + len(text)) * 0.8


def pairs(texts: list[tuple[str, str]], labels: list[int]) -> list[Item]:
    return [
        Item(str(place), "Q?", pair, ("x", "y"), label)
        for place, (pair, label) in enumerate(zip(texts, labels, strict=True))
    ]


async def records(asked: list[Item], script: Script, method: str, both: bool = True) -> list[Any]:
    made = Judge(Scripted(script, ("text", "logprobs", "attention")), "m", METHODS[method], {})
    kept = Records(None, {})
    async for _ in trial(asked, made, kept, at_once=2, both_orders=both):
        pass
    kept.close()
    return [kept.done[each.key] for each in asked]


TEXTS = [("alpha", "bravo!"), ("c", "delta"), ("echo", "fox"), ("g", "h"), ("india?", "j")]
LABELS = [0, 1, 1, 0, 1]


@pytest.mark.parametrize("method", ["none", "swap"])
async def test_a_judge_of_the_first_slot_is_seen_through(method: str) -> None:
    report = Report.of(method, [], await records(pairs(TEXTS, LABELS), slot_lover(), method))
    assert report.card is not None
    assert report.card.position_consistency.value == 0
    assert report.card.preference_fairness.value == -1
    assert report.card.accuracy_first.value == 0.4
    assert report.card.accuracy_second.value == 0.6
    assert report.card.accuracy.value == 0.5
    if method == "swap":
        assert report.statuses == {"order_conflict": 5}
        assert report.decided is not None and report.decided.value == 0
        assert report.right is not None and report.right.value is None
        assert report.calls == 2
    else:
        assert report.statuses == {"single": 5}
        assert report.right is not None and report.right.value == 0.4
        assert report.calls == 1


async def test_swap_and_two_single_calls_show_the_same_choices() -> None:
    script = content_judge(opinionated)
    swap, none = [
        [item(each) for each in await records(pairs(TEXTS, LABELS), script, method)]
        for method in ("swap", "none")
    ]
    assert [(pair.first, pair.second, pair.label) for pair in swap if pair] == [
        (pair.first, pair.second, pair.label) for pair in none if pair
    ]
    assert len({(pair.first, pair.second) for pair in swap if pair}) > 2


async def test_pine_is_consistent_by_construction_and_measured_to_be() -> None:
    found = await records(pairs(TEXTS, LABELS), slot_lover(), "pine")
    report = Report.of("pine", [], found)
    assert report.card is not None
    assert report.card.position_consistency.value == 1
    assert report.card.preference_fairness.value == 0


texts = st.text("abcxyz", min_size=1, max_size=6)


@settings(max_examples=40)
@given(
    made=st.lists(st.tuples(texts, texts, st.sampled_from([0, 1])), min_size=1, max_size=6),
    method=st.sampled_from(["none", "swap", "pine"]),
)
async def test_exchanging_the_candidates_exchanges_the_accuracies_alone(
    made: list[tuple[str, str, int]], method: str
) -> None:
    as_is = pairs([(one, two) for one, two, _ in made], [label for _, _, label in made])
    turned = pairs([(two, one) for one, two, _ in made], [1 - label for _, _, label in made])
    one, two = [
        Report.of(method, [], await records(asked, content_judge(opinionated), method))
        for asked in (as_is, turned)
    ]
    assert one.card is not None and two.card is not None
    assert one.card.accuracy_first.value == two.card.accuracy_second.value
    assert one.card.accuracy_second.value == two.card.accuracy_first.value
    for name in ("position_consistency", "preference_fairness", "accuracy", "coverage"):
        assert getattr(one.card, name) == getattr(two.card, name)


async def test_without_both_orders_there_are_verdicts_and_no_choices() -> None:
    found = await records(pairs(TEXTS, LABELS), slot_lover(), "none", both=False)
    report = Report.of("none", [], found)
    assert report.card is None
    assert report.right is not None and report.right.value == 0.4


@pytest.mark.parametrize("label", [None, TIE])
async def test_what_nobody_labelled_is_neither_right_nor_wrong(label: int | None) -> None:
    labelled = pairs(TEXTS, LABELS)
    asked = [*labelled, *(replace(each, id=f"+{each.id}", label=label) for each in labelled)]
    for method in ("none", "swap"):
        one, two = [
            Report.of(method, [], await records(some, content_judge(opinionated), method))
            for some in (labelled, asked)
        ]
        assert one.right is not None and two.right is not None
        assert (one.right.value, one.right.wilson) == (two.right.value, two.right.wilson)
        assert one.card is not None and two.card is not None
        assert one.card.accuracy.value == two.card.accuracy.value


async def test_an_item_that_cannot_be_judged_counts_and_changes_no_figure() -> None:
    found = await records(pairs(TEXTS, LABELS), slot_lover(), "swap")
    error = {"id": "9", "candidates": ["x", "y"], "label": "x", "error": {"message": "no"}}
    one, two = Report.of("swap", [], found), Report.of("swap", [], [*found, error])
    assert (two.items, two.impossible, two.error) == (6, 1, "no")
    assert remarks([two]) == ["swap: 1 of 6 items cannot be judged: no"]
    assert two.card == one.card


async def test_of_many_candidates_there_are_verdicts_alone() -> None:
    """A call of two of three, as pairs are asked, is no pair of its own."""
    asked = [Item("0", "Q?", ("a", "bb", "c"), ("x", "y", "z"), 1)]
    [record] = await records(asked, content_judge(lambda text, slot: float(len(text))), "none")
    call = {**record["calls"][0], "indices": [0, 1]}
    record = {**record, "calls": [call, {**call, "indices": [1, 0]}]}
    report = Report.of("none", [], [record])
    assert report.card is None
    assert report.right is not None and report.right.value == 1


async def test_a_repeated_call_costs_nothing_and_a_sample_is_a_call() -> None:
    [record, *_] = await records(pairs(TEXTS, LABELS), slot_lover(), "swap")
    one, two = record["calls"]
    calls = [one, {**two, "repeated": True}, {**two, "samples": [{}, {}, {}]}]
    assert Report.of("swap", [], [{**record, "calls": calls}]).calls == 4


async def test_whom_the_replies_prefer_is_counted_in_both_orders() -> None:
    """Of one slot's lover, the labels alone say which order is right."""
    found = await records(pairs(TEXTS, LABELS), slot_lover(), "none")
    report = Report.of("none", [], found)
    assert report.decisions is not None
    assert report.decisions.preferred_right.value == 0.5
    assert [*report.points.values()] == [(2, 0) if label == 0 else (0, 2) for label in LABELS]
    assert report.decisions.calls_per_right.value == 2
    assert "points" not in report.wire()


async def test_a_record_older_than_preferences_is_reported_without_them() -> None:
    found = await records(pairs(TEXTS, LABELS), slot_lover(), "none")
    new = ("preferred", "probability", "calibrated")
    older = [
        {
            **{name: value for name, value in record.items() if name not in new},
            "exchanged": {n: v for n, v in record["exchanged"].items() if n not in new},
        }
        for record in found
    ]
    now, before = Report.of("none", [], found), Report.of("none", [], older)
    assert before.decisions is None and before.points == {}
    assert before == replace(now, decisions=None, points={})
    assert not any(row.written(before)[0] != "-" for row in (*PREFERENCES, *WORTH))


def test_nothing_judged_is_no_figure() -> None:
    report = Report.of("none", [], [])
    assert report.card is None and report.calls is None
    assert json.loads(json.dumps(report.wire()))["items"] == 0
