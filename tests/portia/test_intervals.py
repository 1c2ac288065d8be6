"""Intervals: against scipy's, against counting, and without regard to the order of the items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from portia.intervals import Rate, bootstrap, resample, wilson

rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=20)


@given(st.integers(1, 500), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(total: int, data: st.DataObject, covered: float) -> None:
    count = data.draw(st.integers(0, total))
    theirs = binomtest(count, total).proportion_ci(covered, method="wilson")
    assert wilson(count, total, covered) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert wilson(0, 0) is None


@given(rows, st.integers(0, 9))
def test_resampling_keeps_the_number_of_items_and_forgets_their_order(
    items: list[tuple[int, int]], seed: int
) -> None:
    found = resample([(1, *item) for item in items], 3, draws=20, seed=seed)
    assert found.shape == (21, 3)
    assert (found[:, 0] == len(items)).all()
    assert found[0, 1:].tolist() == [sum(item[column] for item in items) for column in (0, 1)]
    again = resample([(1, *item) for item in items[::-1]], 3, draws=20, seed=seed)
    assert (found == again).all()


def test_the_bootstrap_of_a_share_agrees_with_the_binomial() -> None:
    rate = Rate.of(*resample([(1, 1)] * 60 + [(0, 1)] * 140, 2, draws=20_000).T)
    theirs = np.array([0.235, 0.365])  # quantiles 0.025 and 0.975 of Binomial(200, 0.3) / 200
    assert rate.value == 0.3
    assert rate.bootstrap == pytest.approx(theirs, abs=0.006)


def test_draws_with_nothing_to_divide_by_are_left_out() -> None:
    numerators, denominators = np.array([1, 0, 1]), np.array([2, 0, 2])
    assert bootstrap(numerators, denominators) == (0.5, 0.5)
    assert bootstrap(numerators[1:2], denominators[1:2]) is None
    assert Rate.of(np.array([0, 1]), np.array([0, 1])) == Rate(None, None, (1.0, 1.0))
