"""Strengths: they are where the posterior is greatest, and the numbering does not matter."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from portia.bradley_terry import SPREAD, Comparison, fit

NAMES = ["d", "a", "c", "b"]
comparisons = st.lists(
    st.tuples(st.permutations(range(4)), st.sampled_from([0.0, 0.3, 0.5, 1.0])).map(
        lambda drawn: Comparison(drawn[0][0], drawn[0][1], drawn[1])
    ),
    max_size=30,
)


def loss(figures: np.ndarray, cast: list[Comparison]) -> float:
    """Return minus the log-posterior, written from its definition."""
    total = float(figures @ figures) / (2 * SPREAD**2)
    for first, second, score in cast:
        odds = float(figures[first] - figures[second] + figures[-1])
        total += score * math.log1p(math.exp(-odds)) + (1 - score) * math.log1p(math.exp(odds))
    return total


@given(comparisons)
def test_the_posterior_is_greatest_there(cast: list[Comparison]) -> None:
    found = fit(cast, 4)
    values = np.array([*(estimate.value for estimate in found.candidates), found.order.value])
    assert sum(values[:4]) == pytest.approx(0, abs=1e-9)
    assert np.abs(approx_fprime(values, loss, 1e-6, cast)).max() < 1e-4


@given(comparisons, st.permutations(range(4)), st.randoms(use_true_random=False))
def test_renumbering_the_candidates_changes_no_bit(
    cast: list[Comparison], number: list[int], shuffler: random.Random
) -> None:
    renamed = [Comparison(number[first], number[second], score) for first, second, score in cast]
    shuffler.shuffle(renamed)
    names = [NAMES[number.index(index)] for index in range(4)]
    one, other = fit(cast, 4, NAMES), fit(renamed, 4, names)
    assert other.order == one.order
    assert [other.candidates[number[index]] for index in range(4)] == list(one.candidates)


@given(comparisons)
def test_the_opposite_verdicts_reverse_the_strengths_and_the_order_term(
    cast: list[Comparison],
) -> None:
    one, other = fit(cast, 4), fit([Comparison(i, j, 1 - score) for i, j, score in cast], 4)
    assert other.order.value == pytest.approx(-one.order.value, abs=1e-6)
    for here, there in zip(one.candidates, other.candidates, strict=True):
        assert there.value == pytest.approx(-here.value, abs=1e-6)
        assert there.error == pytest.approx(here.error, rel=1e-5)


def test_strengths_and_order_term_are_recovered_within_their_intervals() -> None:
    strengths, order, source = [1.5, 0.5, -0.4, -1.6], 0.7, random.Random(5)
    inside = total = 0
    for _ in range(40):
        cast = []
        for first, second in [(i, j) for i in range(4) for j in range(4) if i != j] * 25:
            odds = strengths[first] - strengths[second] + order
            won = source.random() < 1 / (1 + math.exp(-odds))
            cast.append(Comparison(first, second, float(won)))
        found = fit(cast, 4)
        for truth, figure in zip(
            [*strengths, order], [*found.candidates, found.order], strict=True
        ):
            inside, total = inside + (figure.low < truth < figure.high), total + 1
    assert 0.9 < inside / total < 0.99


def test_ties_alone_make_all_equal_and_a_judge_of_slots_is_all_order() -> None:
    pairs = [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)]
    ties = fit([Comparison(*pair, 0.5) for pair in pairs], 3)
    slots = fit([Comparison(*pair, 1.0) for pair in pairs * 20], 3)
    for found in (ties, slots):
        assert [figure.value for figure in found.candidates] == pytest.approx([0, 0, 0], abs=1e-8)
    assert ties.order.value == pytest.approx(0, abs=1e-8)
    assert slots.order.low > 2


def test_a_candidate_that_always_wins_stays_finite() -> None:
    cast = [Comparison(0, 1, 1.0), Comparison(1, 0, 0.0)] * 5000
    found = fit(cast, 3)
    best, worst, unseen = found.candidates
    assert 2 < best.value < 30 and best.value == pytest.approx(-worst.value, abs=1e-6)
    assert math.isfinite(best.high) and unseen.value == pytest.approx(0, abs=1e-6)
    assert unseen.high - unseen.low > 10


def test_without_comparisons_the_errors_are_the_priors() -> None:
    found = fit([], 4, spread=2.0)
    assert found.order.error == pytest.approx(2.0)
    assert found.candidates[0].error == pytest.approx(2.0 * math.sqrt(3 / 4))  # from the mean
    assert found.candidates[0].high == pytest.approx(1.959964 * math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        (Comparison(0, 0, 1.0), "a comparison must be of two of the 2 candidates, got 0 and 0"),
        (Comparison(0, 2, 1.0), "got 0 and 2; number them from 0"),
        (Comparison(0, 1, 1.5), "a score must be in 0..1, got 1.5"),
        (Comparison(0, 1, math.nan), "a score must be in 0..1, got nan"),
    ],
)
def test_what_is_no_comparison_is_refused(comparison: Comparison, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit([comparison], 2)
