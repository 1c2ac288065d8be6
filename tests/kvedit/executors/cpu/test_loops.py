"""The parts of the loops that stand for themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvedit.executors.cpu import loops


def test_ties_keep_the_canonical_order() -> None:
    starts, count = np.empty(100, np.int64), 100
    weight = np.arange(count, dtype=np.float32) % 3
    loops.starts_of(weight, np.full(count, 2), 300, starts)
    ranked = sorted(range(count), key=lambda span: -weight[span])  # a stable sort
    assert np.argsort(-starts).tolist() == ranked


def test_the_exponential_is_exact_to_rounding_and_nothing_far_down() -> None:
    for power in np.linspace(-99, 0, 5001).astype(np.float32):
        assert loops.exp2(power) == pytest.approx(2.0 ** float(power), rel=3e-7)
    assert loops.exp2(np.float32(-np.inf)) == 0 == loops.exp2(np.float32(-101))


@pytest.mark.parametrize("numbers", [[1.5, -2, 0.25], [-3, -np.inf, -2.5], [-np.inf], [0.0, -0.0]])
def test_the_greatest_number(numbers: list[Any]) -> None:
    assert loops.greatest(np.array(numbers, np.float32)) == max(numbers)
