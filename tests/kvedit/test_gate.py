"""The gate's bounds: what is a little off is refused, and what is no number too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from models import tiny_llama
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kvedit import hf
from kvedit.executors.torch import TorchExecutor
from kvedit.gate import (
    LOGIT_ERROR,
    LOGIT_ROUNDINGS,
    RefusedError,
    compare,
    error,
    rounding,
    spread_positions,
    turn_error,
)
from kvedit.hf import open_door
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Rows

EXACT = torch.tensor([1.0, -2.0, 0.5])


def off_by(share: float) -> Tensor:
    """Return what is off by a share of the greatest entry."""
    return EXACT.double() + torch.tensor([0.0, 0.0, 2 * share]).double()


def refused(logits: Tensor, expected: Tensor, nudged: Tensor) -> bool:
    try:
        compare("it", logits, expected, nudged)
    except RefusedError:
        return True
    return False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_may_be_off_by_some_roundings_and_no_more(dtype: torch.dtype) -> None:
    bound = min(LOGIT_ROUNDINGS * rounding(dtype), LOGIT_ERROR)
    least = torch.finfo(dtype).eps
    below, above = (
        (EXACT + torch.tensor([0.0, 2 * share, 0.0])).to(dtype)
        for share in (bound / 2 - least, 2 * bound + least)
    )
    assert not refused(below, EXACT, EXACT)
    assert refused(above, EXACT, EXACT)


def test_rounding_that_is_seen_in_the_logits_allows_more_but_not_anything() -> None:
    noisy = off_by(1e-3)
    assert refused(off_by(2e-2), EXACT, EXACT)
    assert not refused(off_by(2e-2), EXACT, noisy)
    assert refused(off_by(5e-2), EXACT, noisy)
    assert refused(off_by(1.1 * LOGIT_ERROR), EXACT, off_by(1.0))


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_no_number_agrees_with_nothing(number: float) -> None:
    spoilt = EXACT.clone()
    spoilt[1] = number
    assert refused(spoilt, EXACT, EXACT)
    assert refused(EXACT, spoilt, EXACT)
    assert refused(spoilt, spoilt, EXACT)


def test_errors_are_relative_to_the_greatest_entry() -> None:
    assert error(off_by(0.25), EXACT) == pytest.approx(0.25)


def test_a_fault_in_a_small_dimension_does_not_hide_behind_a_great_one() -> None:
    raw = torch.tensor([[100.0, 0.1], [90.0, 0.2]]).view(1, 1, 2, 2)
    turned = raw + torch.tensor([0.0, 0.1])
    assert turn_error(turned, raw, raw) == pytest.approx(0.5, rel=1e-3)


def test_positions_are_spread_over_the_whole_range() -> None:
    found = spread_positions(24, 512, torch.device("cpu")).tolist()
    assert (found[0], found[-1]) == (0, 511)
    assert found == sorted(set(found))
    assert spread_positions(24, 8, torch.device("cpu")).tolist() == list(range(24))


class Spoiling(TorchExecutor):
    """Changes what the last token reads in the last layer, once it decodes."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        output = super().read(layer, query, rows)
        if layer.index == 1 and query.shape[2] == 1:
            output *= self._factor
        return output


@pytest.mark.parametrize("factor", [1.003, 0.0, -1.0, torch.nan])
def test_a_door_whose_plain_reading_is_off_stays_closed(factor: float) -> None:
    """The last comparison; whoever reads."""
    door = open_door(tiny_llama(), Spoiling(factor))
    assert door.refusal is not None
    assert "the plain reading is off by" in door.refusal
    assert door.layers == ()


def test_a_door_whose_plain_reading_is_right_opens() -> None:
    assert open_door(tiny_llama(), Spoiling(1.0)).refusal is None


def test_attention_that_is_a_little_more_than_softmax_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stock = sdpa_attention_forward

    def other(*arguments: Any, **options: Any) -> tuple[Tensor, None]:
        output, _ = stock(*arguments, **options)
        return output * 1.002, None

    monkeypatch.setattr(hf, "sdpa_attention_forward", other)
    refusal = open_door(tiny_llama()).refusal
    assert refusal is not None
    assert "layer 0 is not plain softmax attention" in refusal


def test_frequencies_that_are_a_little_off_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By eight roundings: after 511 tokens that is an angle of 5e-4."""
    model = tiny_llama()
    right = open_door(model).geometries[0]
    assert right is not None
    inv_freq = right.inv_freq * (1 + 8 * torch.finfo(torch.float32).eps)
    monkeypatch.setattr(hf, "_candidates", lambda model: [RotaryGeometry(inv_freq)])
    assert "no rotary layout reproduces" in str(open_door(model).refusal)
