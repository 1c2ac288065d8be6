"""A kernel is used only where it is right, and where it pays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from kvedit.kernels import choice
from kvedit.kernels.choice import Choice, Make, choose, difference
from kvedit.kernels.weights import Packed, Stock, Unpacked, Weights, packed_order

WEIGHTS = [torch.randn(128, 64, generator=torch.Generator().manual_seed(n)) for n in range(3)]

# oneDNN packs no bfloat16 where the processor has no AVX-512: `choose` measures that, and leaves it
HALF = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 in oneDNN here"
    ),
)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("kernel", [Stock, Unpacked, Packed])
def test_kernels_that_are_right_differ_by_no_more_than_rounding(
    kernel: Make, dtype: torch.dtype
) -> None:
    weight = WEIGHTS[0].to(dtype)
    assert difference(kernel(weight), weight) is None


class Wrong(Unpacked):
    """A product that is a little off for two rows and more."""

    def multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        product = super().multiply(rows, bias)
        return product if rows.shape[0] < 2 else product * 1.01


class Nan(Unpacked):
    """A product that is none."""

    def multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        return super().multiply(rows, bias) * torch.nan


@pytest.mark.parametrize("kernel", [Wrong, Nan])
def test_a_kernel_that_is_off_is_told(kernel: Make) -> None:
    assert "is off by" in (difference(kernel(WEIGHTS[0]), WEIGHTS[0]) or "")


def planted(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
    """Let kernels take so long, by name; our own loop is named `loop`."""

    def times(held: Sequence[Sequence[Weights]], counts: Sequence[int]) -> list[list[float]]:
        names = [
            "loop" if getattr(each[0], "few", 0) else type(each[0]).__name__.lower()
            for each in held
        ]
        return [
            [seconds[name] * (count if name == "loop" else 1) for count in counts] for name in names
        ]

    monkeypatch.setattr(choice, "_times", times)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"stock": 1, "unpacked": 2, "packed": 2}, Choice("stock")),
        ({"stock": 1, "unpacked": 0.97, "packed": 2}, Choice("stock")),
        ({"stock": 2, "unpacked": 1, "packed": 1.5}, Choice("unpacked")),
        ({"stock": 1, "unpacked": 1, "packed": 1.1, "loop": 1}, Choice("packed", 1)),
        ({"stock": 3, "unpacked": 2, "packed": 1, "loop": 2}, Choice("packed")),
        ({"stock": 3, "unpacked": 2, "packed": 1, "loop": 1.2}, Choice("packed", 1)),
        ({"stock": 3, "unpacked": 2, "packed": 1, "loop": 0.6}, Choice("packed", 1)),
        ({"stock": 3, "unpacked": 2, "packed": 1, "loop": 0.1}, Choice("packed", 3)),
    ],
)
def test_the_fastest_is_chosen_and_the_simpler_one_where_it_is_as_fast(
    seconds: dict[str, float], expected: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packed_order(torch.float32) is None:
        pytest.skip("oneDNN packs in another order here")
    planted(monkeypatch, seconds)
    assert choose(WEIGHTS) == expected


def test_weights_that_may_not_be_packed_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, {"stock": 3, "unpacked": 2, "packed": 1, "loop": 1})
    assert choose(WEIGHTS, packing=False) == Choice("unpacked")


@pytest.fixture
def broken() -> Iterator[None]:
    """Leave a torch that has no oneDNN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Packed, "__init__", _raise)
        patch.setattr(Unpacked, "multiply", _raise)
        yield


def _raise(*_: object, **__: object) -> None:
    raise AttributeError("no oneDNN")


@pytest.mark.usefixtures("broken")
def test_without_onednn_all_stays_stock() -> None:
    assert choose(WEIGHTS) == Choice("stock")


def test_a_real_measurement_ends_in_a_choice() -> None:
    assert choose(WEIGHTS).name in ("stock", "unpacked", "packed")
