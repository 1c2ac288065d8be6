"""The report card: the spec's figures, the recorded judges, and the mirror."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portia.metrics import Choice, Item, Kind, Label, ReportCard, choices, stability
from portia.verdict import TIE, Vote

RECORDED = Path(__file__).parents[3] / "shared/data/LLMBar/recorded_judgments.jsonl.gz"
SLOTS: list[Choice] = ["A", "B", "C", None]
items = st.lists(
    st.builds(
        Item,
        first=st.sampled_from(SLOTS),
        second=st.sampled_from(SLOTS),
        label=st.sampled_from([1, 2, None]),
        calls=st.integers(1, 6),
        seconds=st.floats(0, 9),
    ),
    max_size=30,
)


def value(card: ReportCard, name: str) -> float:
    found = dict(card.rows())[name].value
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("primacy", ["AA", "AC", "CA"]),
        ("recency", ["BB", "BC", "CB"]),
        ("consistent", ["AB", "BA", "CC"]),
    ],
)
def test_the_kinds_of_the_nine_pairs_of_choices(kind: Kind, found: list[str]) -> None:
    kinds = {f"{one}{other}": Item(one, other).kind for one in SLOTS[:3] for other in SLOTS[:3]}
    assert sorted(pair for pair, its in kinds.items() if its == kind) == sorted(found)


def test_a_choice_that_could_not_be_read_is_of_no_kind() -> None:
    for slot in SLOTS:
        assert Item(slot, None).kind == Item(None, slot).kind == "unparsed"


def test_a_judge_of_the_first_slot() -> None:
    card = ReportCard.of([Item("A", "A", label) for label in (1, 2, 2, 1)])
    assert value(card, "preference_fairness") == -1
    assert value(card, "position_consistency") == 0
    assert value(card, "accuracy") == 0.5
    assert value(card, "coverage") == value(card, "both_right") == 0
    assert card.accuracy_when_consistent.value is None
    last = ReportCard.of([Item("B", "B", label) for label in (1, 2, 2, 1)])
    assert value(last, "preference_fairness") == 1


def test_every_figure_of_a_small_set() -> None:
    card = ReportCard.of(
        [
            Item("A", "B", 1, calls=2, tokens=10, seconds=0.5),  # both right
            Item("B", "A", 1, calls=2, tokens=10, seconds=0.5),  # both wrong
            Item("A", "A", 2, calls=4, tokens=40, seconds=1.5),  # right in order 2 alone
            Item("C", "C", 1, calls=2, tokens=10, seconds=0.5),  # a tie
            Item("A", None, 1, calls=2, tokens=10, seconds=0.5),  # right where it could be read
            Item("B", "C", None, calls=6, tokens=10, seconds=0.5),  # nobody knows
            Item("B", "A", None, calls=3, tokens=15, seconds=0.5),
        ]
    )
    assert (card.items, card.primacy, card.recency, card.consistent) == (7, 1, 1, 4)
    expected = {
        "unparsed": 1 / 7,
        "position_consistency": 4 / 6,
        "preference_fairness": 0,
        "accuracy_first": 1 / 4,
        "accuracy_second": 2 / 4,
        "accuracy": 3 / 8,
        "both_right": 1 / 4,
        "accuracy_when_consistent": 1 / 3,
        "coverage": 3 / 7,
        "llmbar_accuracy": 4 / 10,
        "llmbar_agreement": 4 / 7,
    }
    assert {name: rate.value for name, rate in card.rows()} == pytest.approx(expected)
    assert (card.calls, card.tokens) == (3, 15)
    assert card.seconds == pytest.approx(4.5 / 7)


@given(items)
def test_fairness_is_the_specs_formula(found: list[Item]) -> None:
    card = ReportCard.of(found)
    pcn, rcn, n = card.primacy, card.recency, card.primacy + card.recency + card.consistent
    if pcn + rcn:
        ipr, irr = pcn / (pcn + rcn), rcn / (pcn + rcn)
        expected = (rcn * irr - pcn * ipr) / n
        assert value(card, "preference_fairness") == pytest.approx(expected)


@given(items, st.randoms(use_true_random=False))
def test_exchanging_all_candidates_exchanges_the_two_orders_alone(
    found: list[Item], random: Random
) -> None:
    mirror: dict[Label, Label] = {1: 2, 2: 1, None: None}
    exchanged = [
        replace(item, first=item.second, second=item.first, label=mirror[item.label])
        for item in found
    ]
    random.shuffle(exchanged)
    one, other = ReportCard.of(found), ReportCard.of(exchanged)
    assert other == replace(
        one, accuracy_first=one.accuracy_second, accuracy_second=one.accuracy_first
    )


@given(items)
def test_the_wire_is_json_and_the_intervals_hold_their_values(found: list[Item]) -> None:
    card = ReportCard.of(found, draws=50)
    wire = json.loads(json.dumps(card.wire(), allow_nan=False))
    for name, rate in card.rows():
        assert wire[name]["value"] == rate.value
        for interval in (rate.wilson, rate.bootstrap):
            assert interval is None or interval[0] <= interval[1]
        if rate.wilson is not None and rate.value is not None:
            assert rate.wilson[0] - 1e-12 <= rate.value <= rate.wilson[1] + 1e-12
    assert {name for name, rate in card.rows() if rate.value is None} == {
        name for name in wire if isinstance(wire[name], dict) and wire[name]["value"] is None
    }


def test_votes_become_slots() -> None:
    votes = [Vote((1, 0), 0), Vote((0, 1), 0)]
    assert choices(votes) == choices(votes[::-1]) == ("A", "B")
    assert choices([Vote((0, 1), TIE), Vote((1, 0), None)]) == ("C", None)
    for order in ((0, 1), (1, 0)):
        assert choices([Vote(order, 1)], order_free=True) == ("B", "A")
        assert choices([Vote(order, TIE)], order_free=True) == ("C", "C")
    for cast in ([], [Vote((0, 1), 0)], [Vote((0, 1), 0)] * 2, [*votes, Vote((0, 1), 1)]):
        with pytest.raises(ValueError, match="votes must be one per order"):
            choices(cast)


def test_stability_is_the_share_of_the_most_frequent_choice() -> None:
    assert stability([["A", "A", "B", "C"], ["B", "B"], ["A"], []]) == 0.75
    assert stability([[None, None], ["A", None]]) == 0.25
    assert stability([["A"]]) is None
    card = ReportCard.of([Item("A", "B", repeats=("A", "A", "B", "B")), Item("A", "B")])
    assert card.repetition_stability == 0.5


def test_no_items_give_no_figures() -> None:
    card = ReportCard.of([])
    assert {rate.value for _, rate in card.rows()} == {None}
    assert len(get_args(Kind)) == 4


@pytest.mark.skipif(not RECORDED.is_file(), reason="the data is not beside the project")
@pytest.mark.parametrize(
    ("judge", "strategy", "consistency", "flips", "accuracy", "if_consistent"),
    [
        ("GPT-4", "Vanilla", 0.928, (20, 10), 0.845, 0.871),
        ("GPT-4", "Swap_CoT", 0.981, (4, 4), 0.838, 0.844),
        ("ChatGPT", "Vanilla", 0.659, (133, 10), 0.400, 0.348),
        ("PaLM2", "CoT", 0.464, (217, 5), 0.589, 0.693),
        ("LLaMA2", "Swap", 0.636, (0, 151), 0.457, 0.432),
    ],
)
def test_the_table_of_recorded_judges(
    judge: str,
    strategy: str,
    consistency: float,
    flips: tuple[int, int],
    accuracy: float,
    if_consistent: float,
) -> None:
    found = []
    slots: dict[str, Choice] = {"1": "A", "2": "B"}
    swapped: dict[str, Choice] = {"1": "B", "2": "A"}
    with gzip.open(RECORDED, "rt") as lines:
        for row in map(json.loads, lines):
            if (row["judge"], row["strategy"]) == (judge, strategy):
                if not row["subset"].startswith("LLMBar/"):
                    continue
                orders = row["winner_original_order"], row["winner_swapped_order"]
                for label, one, other in zip(row["labels"], *orders, strict=True):
                    found.append(Item(slots.get(one), swapped.get(other), label))
    card = ReportCard.of(found)
    assert (card.items, card.primacy, card.recency) == (419, *flips)
    assert round(value(card, "position_consistency"), 3) == consistency
    assert round(value(card, "accuracy"), 3) == accuracy
    assert round(value(card, "accuracy_when_consistent"), 3) == if_consistent
