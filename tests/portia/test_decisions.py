"""What preferences are worth: against counting by hand, and the mirror."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portia.decisions import Answer, DecisionCard
from portia.intervals import Rate

answers = st.builds(
    Answer,
    right=st.sampled_from([True, False, None]),
    probability=st.sampled_from([None, 0.5, 0.6, 0.9, 1.0]),
    calls=st.integers(1, 3),
    tokens=st.integers(1, 99),
)
items = st.lists(st.lists(answers, min_size=1, max_size=2).map(tuple), max_size=12)


def value(rate: Rate | None) -> float:
    assert rate is not None and rate.value is not None
    return rate.value


def test_nobody_is_half_a_right_one_and_costs_the_same() -> None:
    card = DecisionCard.of(
        [(Answer(right, 0.8, calls=2, tokens=50),) for right in (True, True, False, None)]
    )
    assert value(card.preferred_right) == (2 + 0.5) / 4
    assert value(card.preferred_none) == 0.25
    assert value(card.calls_per_right) == 4
    assert value(card.tokens_per_right) == 100


def test_an_item_counts_once_however_often_it_was_asked() -> None:
    once, twice = (Answer(True, 0.9, 1, 10),), (Answer(False, 0.7, 1, 10), Answer(True, 0.6, 1, 10))
    card = DecisionCard.of([once, twice])
    assert value(card.preferred_right) == 0.75
    assert value(card.calls_per_right) == 2 / 1.5
    assert value(card.brier) == pytest.approx((0.01 + (0.49 + 0.16) / 2) / 2)


def area_by_small_steps(answered: list[Answer], steps: int = 20_000) -> float:
    """Return the mean accuracy over coverages, each group of equals spread evenly."""
    groups: dict[float, list[float]] = {}
    for each in answered:
        said = -1.0 if each.right is None or each.probability is None else each.probability
        groups.setdefault(said, []).append(each.points)
    covered, won = [0.0], [0.0]
    for said in sorted(groups, reverse=True):
        covered.append(covered[-1] + len(groups[said]))
        won.append(won[-1] + sum(groups[said]))
    at = (np.arange(steps) + 0.5) / steps * covered[-1]
    return float(np.mean(np.interp(at, covered, won) / at))


@given(st.lists(answers, min_size=1, max_size=12))
def test_the_area_is_the_mean_accuracy_over_coverages(answered: list[Answer]) -> None:
    card = DecisionCard.of([(each,) for each in answered], draws=5)
    if all(each.right is None or each.probability is None for each in answered):
        assert not any((card.coverage_area, card.curve, card.brier, card.calibration_error))
        return
    assert value(card.coverage_area) == pytest.approx(area_by_small_steps(answered), abs=2e-4)
    assert card.curve is not None
    assert card.curve.coverage[-1] == 1
    assert card.curve.accuracy[-1] == pytest.approx(value(card.preferred_right))


@given(items, st.randoms(use_true_random=False))
def test_neither_the_order_of_items_nor_of_answers_changes_a_bit(
    found: list[tuple[Answer, ...]], random: Random
) -> None:
    turned = [item[::-1] for item in found]
    random.shuffle(turned)
    assert DecisionCard.of(found, draws=20) == DecisionCard.of(turned, draws=20)


def drawn(count: int, honest: bool, seed: int) -> list[tuple[Answer, ...]]:
    """Draw answers that are right as often as they say, or only in .7 of all."""
    random = Random(seed)
    made: list[tuple[Answer, ...]] = []
    for _ in range(count):
        said = 0.5 + 0.5 * random.random()
        made.append((Answer(random.random() < (said if honest else 0.7), said),))
    return made


def test_an_honest_judge_has_a_small_calibration_error_and_a_sure_one_is_caught() -> None:
    honest = DecisionCard.of(drawn(4000, True, 1))
    assert honest.bins == 10
    assert value(honest.calibration_error) < 0.03
    assert value(honest.coverage_area) > value(honest.preferred_right) + 0.07
    vain = DecisionCard.of([(replace(one, probability=0.99),) for [one] in drawn(4000, False, 2)])
    assert vain.bins == 1  # all are equally sure: no bin can tell them apart
    assert value(vain.calibration_error) == pytest.approx(0.29, abs=0.03)
    assert value(vain.brier) > 0.25
    assert value(vain.coverage_area) == pytest.approx(value(vain.preferred_right))


def test_few_answers_make_few_bins() -> None:
    assert DecisionCard.of(drawn(45, True, 0)).bins == 4
    assert DecisionCard.of(drawn(5, True, 0)).bins == 1


def test_draws_in_blocks_are_the_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn(50, True, 3)
    at_once = DecisionCard.of(found, draws=100)
    monkeypatch.setattr("portia.decisions.BLOCK", 700)
    assert DecisionCard.of(found, draws=100) == at_once


def test_the_interval_of_the_area_covers_the_truth() -> None:
    """Of many data sets of one judge, about 95 % of the intervals hold the area of a huge one."""
    truth = value(DecisionCard.of(drawn(40_000, True, 99), draws=1).coverage_area)
    held = 0
    for seed in range(60):
        found = DecisionCard.of(drawn(150, True, seed), draws=200).coverage_area
        assert found is not None and found.bootstrap is not None
        held += found.bootstrap[0] <= truth <= found.bootstrap[1]
    assert held >= 51


def test_nothing_is_no_figure() -> None:
    card = DecisionCard.of([])
    assert card.preferred_right.value is None and card.coverage_area is None
    assert card.wire()["items"] == 0
