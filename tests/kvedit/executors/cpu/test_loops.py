"""The parts of the loops that stand for themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import pytest
import torch

from kvedit.executors.cpu import loops
from kvedit.executors.cpu.team import KINDS, narrowed, widened


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


def test_the_hyperbolic_tangent_is_exact_to_rounding_near_zero_and_far_out() -> None:
    near = np.concatenate([10.0 ** np.linspace(-30, 2, 3001), [0.0]]).astype(np.float32)
    for x in near:
        expected = np.tanh(np.float64(x))
        assert loops.tanh(x) == pytest.approx(expected, rel=4e-7, abs=1e-38)
        assert loops.tanh(-x) == -loops.tanh(x)
    assert loops.tanh(np.float32(np.inf)) == 1 == -loops.tanh(np.float32(-np.inf))


VIEWS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


def _rounding() -> Callable[[float, type], tuple[float, int]]:
    def rounded(number: float, kind: type) -> tuple[float, int]:
        return widened(narrowed(number, kind)), narrowed(number, kind)

    compile_: Any = numba.njit
    return cast("Callable[[float, type], tuple[float, int]]", compile_(rounded))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_of_16_bits_are_rounded_as_torch_rounds(dtype: torch.dtype) -> None:
    """Every number that there is, and those halfway between two."""
    exact = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    exact = exact[exact.isfinite()].float().sort().values
    between = (exact[1:].double() + exact[:-1].double()).float() / 2
    rounded = _rounding()
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e38, -1e38, 1e-45, -0.0])
    for number in torch.cat([exact[::37], between[::37], special]).numpy():
        wide, bits = rounded(number, KINDS[dtype])
        expected = torch.tensor(number).to(dtype)
        assert wide == pytest.approx(expected.float().item(), rel=0, abs=0, nan_ok=True)
        assert bits == expected.view(VIEWS[dtype]).item()
