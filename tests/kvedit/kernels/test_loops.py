"""The loops beside float64, in every shape that could trip them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kvedit.kernels.gated import Gated
from kvedit.kernels.linear import Linear
from kvedit.kernels.norm import Norm
from kvedit.kernels.order import BLOCK
from kvedit.kernels.weights import Packed, Products, packed_order

DTYPES = (torch.float32, torch.bfloat16)
SHAPES = ((64, 64), (130, 100), (63, 17), (65, 33), (192, 576), (1, 5))


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found: Tensor, expected: Tensor) -> bool:
    allowed = 4 * max(torch.finfo(found.dtype).eps, 64 * torch.finfo(torch.float32).eps)
    off = (found.double() - expected.double()).abs().max()
    return bool(off <= allowed * expected.abs().max().clamp_min(1e-3))


@pytest.fixture(autouse=True)
def known_order() -> None:
    if any(packed_order(dtype) is None for dtype in DTYPES):
        pytest.skip("oneDNN packs in another order here, so that no loop of ours runs")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_product_is_that_of_float64(
    dtype: torch.dtype, shape: tuple[int, int], count: int
) -> None:
    weight, bias = random(*shape, dtype=dtype), random(shape[0], dtype=dtype, seed=1)
    rows = random(1, count, shape[1], dtype=dtype, seed=2)
    packed = Packed(weight, few=3)
    exact = rows.double() @ weight.double().T
    assert packed.multiply(rows, None).shape == (1, count, shape[0])
    assert close(packed.multiply(rows, None), exact)
    assert close(packed.multiply(rows, bias), exact + bias.double())
    assert close(packed.multiply(rows, None), exact)  # the bias is gone again


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_do_not_lie_together_are_read_where_they_are(dtype: torch.dtype) -> None:
    weight, wide = random(70, 40, dtype=dtype), random(2, 80, dtype=dtype, seed=1)
    rows = wide[:, ::2]
    assert close(Packed(weight, few=2).multiply(rows, None), rows.double() @ weight.double().T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, threads: int) -> None:
    packed, rows = Packed(random(300, 70, dtype=dtype), few=2), random(2, 70, dtype=dtype, seed=1)
    before = torch.get_num_threads()
    expected = packed.multiply(rows, None)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(packed.multiply(rows, None), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_alone_and_with_others(dtype: torch.dtype) -> None:
    packed, rows = Packed(random(130, 100, dtype=dtype), few=3), random(3, 100, dtype=dtype, seed=1)
    together = packed.multiply(rows, None)
    for index in range(3):
        assert torch.equal(packed.multiply(rows[index : index + 1], None)[0], together[index])


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_products_of_one_call_are_those_of_each(dtype: torch.dtype) -> None:
    shapes = ((130, 100), (64, 100), (7, 100))
    weights = [Packed(random(*shape, dtype=dtype, seed=shape[0]), few=2) for shape in shapes]
    biases = [random(130, dtype=dtype, seed=5), None, random(7, dtype=dtype, seed=6)]
    rows = random(1, 2, 100, dtype=dtype, seed=7)
    found = Products(weights, biases).multiply(rows, 2)
    for weight, bias, product in zip(weights, biases, found, strict=True):
        assert torch.equal(product, weight.multiply(rows, bias))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_embedding_reads_the_packed_weights_to_the_bit(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weight = random(*shape, dtype=dtype)
    ids, packed = torch.arange(shape[0]).flip(0)[None], Packed(weight)
    assert packed.ordered or shape[0] < BLOCK
    if packed.ordered:
        assert torch.equal(packed.look_up(ids), weight[ids])


class Mlp(nn.Module):
    """A gated layer as models write it."""

    def __init__(self, width: int, inner: int, dtype: torch.dtype) -> None:
        super().__init__()
        for name, shape in (
            ("gate_proj", (inner, width)),
            ("up_proj", (inner, width)),
            ("down_proj", (width, inner)),
        ):
            weight = random(*shape, dtype=dtype, seed=len(name)) * shape[1] ** -0.5
            setattr(self, name, Linear(Packed(weight.to(dtype), few=3), None, shape))

    def forward(self, rows: Tensor) -> Tensor:
        gate, up, down = (self.get_submodule(f"{name}_proj") for name in ("gate", "up", "down"))
        output: Tensor = down(nn.functional.silu(gate(rows)) * up(rows))
        return output


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "inner"), [(64, 128), (70, 100), (33, 65)])
def test_a_gated_layer_gives_what_its_parts_give(
    dtype: torch.dtype, width: int, inner: int
) -> None:
    layer = Mlp(width, inner, dtype)
    made = Gated.of(layer)
    assert made is not None
    for count in (1, 2, 3, 9):
        rows = random(1, count, width, dtype=dtype, seed=count) * 20  # silu's far ends too
        assert close(made(rows), layer(rows))


class TinyRMSNorm(nn.Module):
    """A norm as models write it."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(width, dtype=dtype), False)
        self.variance_epsilon = 1e-6

    def forward(self, rows: Tensor) -> Tensor:
        wide = rows.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(rows.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 33, 896])
def test_a_norm_gives_what_torch_gives(dtype: torch.dtype, width: int) -> None:
    layer = TinyRMSNorm(width, dtype)
    made = Norm.of(layer)
    assert made is not None
    for count in (1, 3, 40):
        rows = random(2, count, width, dtype=dtype, seed=count) * 100
        assert close(made(rows), layer(rows))
    other = torch.float32 if dtype is torch.bfloat16 else torch.bfloat16
    assert made(random(1, width, dtype=other)).dtype == layer(random(1, width, dtype=other)).dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
def test_products_that_are_not_rounded_round_to_those_that_are(
    dtype: torch.dtype, biased: bool
) -> None:
    packed, rows = Packed(random(130, 100, dtype=dtype), few=2), random(2, 100, dtype=dtype, seed=1)
    bias = random(130, dtype=dtype, seed=2) if biased else None
    found = packed.unrounded().multiply(rows, bias)
    assert found.dtype == torch.float32
    assert torch.equal(found.to(dtype), packed.multiply(rows, bias))
    exact = rows.double() @ _weight(packed).double().T
    exact = exact if bias is None else exact + bias.double()
    assert float((found - exact).abs().max()) < 1e-4


def _weight(packed: Packed) -> torch.Tensor:
    return packed.look_up(torch.arange(packed.outputs))
