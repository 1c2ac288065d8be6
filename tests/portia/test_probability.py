"""Margins turned into probabilities: what was planted is found, and no more is claimed."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from portia.probability import (
    FITS,
    FitMethod,
    Isotonic,
    Temperature,
    fit_isotonic,
    fit_temperature,
    kept,
    restored,
    sigmoid,
    softmax,
    told,
)

METHODS: list[FitMethod] = ["temperature", "isotonic"]
margin = st.floats(0, 50)
items = st.lists(st.tuples(margin, st.booleans()), min_size=5, max_size=60)
quick = settings(deadline=None, max_examples=40)


def drawn(count: int, temperature: float, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Return items of a judge whose margins are its log-odds times a temperature."""
    chance = random.Random(seed)
    margins = [chance.expovariate(0.3) for _ in range(count)]
    return margins, [chance.random() < float(expit(each / temperature)) for each in margins]


@given(margin)
def test_a_margin_is_taken_for_log_odds(each: float) -> None:
    assert sigmoid(each) == pytest.approx(expit(each))
    assert softmax([0.0, each], 1) == pytest.approx(sigmoid(each))
    assert softmax([each, 1000.0], 0) == pytest.approx(expit(each - 1000))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_what_was_planted_is_found(method: FitMethod, temperature: float) -> None:
    margins, right = drawn(4000, temperature)
    fit = FITS[method](margins, right)
    for each in (0.5, 1.0, 3.0, 6.0):
        assert fit(each) == pytest.approx(expit(each / temperature), abs=0.07)
    fresh, true = drawn(4000, temperature, seed=1)
    loss = [
        -math.log(fit(each) if t else 1 - fit(each)) for each, t in zip(fresh, true, strict=True)
    ]
    assert fit.after == pytest.approx(sum(loss) / len(loss), abs=0.02)  # as on items it never saw
    if temperature == 4.0:
        assert fit.after < fit.before - 0.1
    assert fit.count == 4000


@quick
@given(items, margin, margin, st.sampled_from(METHODS))
def test_a_greater_margin_is_never_less_probable(
    rows: list[tuple[float, bool]], one: float, other: float, method: FitMethod
) -> None:
    margins, right = zip(*rows, strict=True)
    fit = FITS[method](margins, right)
    low, high = sorted((one, other))
    assert fit(low) <= fit(high)
    assert 1 / (len(rows) + 2) <= fit(low) and fit(high) <= (len(rows) + 1) / (len(rows) + 2)
    if method == "temperature":
        assert fit(low) >= 0.5
    assert math.isfinite(fit.before) and math.isfinite(fit.after)
    assert FITS[method](margins[::-1], right[::-1]) == fit
    assert restored(json.loads(json.dumps(kept(fit)))) == fit


def test_isotonic_says_of_its_items_what_they_say() -> None:
    margins = [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    right = [False, True, True, False, True, True, True, True]
    fit = fit_isotonic(margins, right)
    assert (fit.margins, fit.shares) == ((1.0, 3.0, 4.0, 7.0), (0.5, 0.5, 1.0, 1.0))
    assert [fit(each) for each in (0.0, 1.0, 2.5, 3.0)] == [0.5] * 4
    assert fit(3.5) == pytest.approx(0.75)
    assert fit(4.0) == fit(99.0) == 9 / 10  # eight items make nobody surer


def test_a_judge_that_is_always_right_is_not_believed_without_end() -> None:
    for fit in (fit_temperature([1.0] * 30, [True] * 30), fit_isotonic([1.0] * 30, [True] * 30)):
        assert fit(1.0) == 31 / 32


def test_a_judge_worse_than_chance() -> None:
    margins, right = [1.0, 2.0] * 50, [False, False, True, False] * 25
    assert fit_temperature(margins, right)(5.0) == pytest.approx(0.5, abs=0.01)
    assert fit_isotonic(margins, right)(5.0) == pytest.approx(0.25)


def test_a_reader_is_told_of_the_fit() -> None:
    assert told(Temperature(2.0, 40, 0.9, 0.6)) == {
        "method": "temperature",
        "count": 40,
        "log_loss": {"before": 0.9, "after": 0.6},
        "temperature": 2.0,
    }
    assert "shares" not in told(Isotonic((1.0,), (0.5,), 40))


@pytest.mark.parametrize("margins", [[], [1.0] * 4, [1.0] * 9 + [-0.5]])
def test_items_that_are_none_are_refused(margins: list[float]) -> None:
    for method in METHODS:
        with pytest.raises(ValueError, match="items must be at least 5 with margins of the pref"):
            FITS[method](margins, [True] * len(margins))
