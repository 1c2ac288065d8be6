"""The weights of a linear layer, as each kernel keeps them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kvedit.executors import cpu
from kvedit.kernels import memory
from kvedit.kernels.order import BLOCK, Order

DTYPES = (torch.float32, torch.bfloat16)
ROWS = 16  # for which oneDNN is asked to pack: its order for so many is good for any other number
onednn: Any = torch.ops.mkldnn


class Weights(Protocol):
    """What a layer multiplies with."""

    inputs: int
    dtype: torch.dtype

    def multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Return rows times weights, plus the bias.

        rows     [any, inputs]
        bias     [outputs], or None
        returns  [any, outputs]
        """
        ...

    def look_up(self, outputs: Tensor) -> Tensor:
        """Return the weights of some outputs, as an embedding does that shares them.

        outputs  [any] int64
        returns  [any, inputs]
        """
        ...


class Stock:
    """Torch's own product."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.inputs, self.dtype = weight.shape[1], weight.dtype

    def multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply (see `Weights`)."""
        return torch.nn.functional.linear(rows, self._weight, bias)

    def look_up(self, outputs: Tensor) -> Tensor:
        """Return rows of the weights (see `Weights`)."""
        return self._weight[outputs]


class Unpacked(Stock):
    """oneDNN's product, on weights as they are."""

    def multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply (see `Weights`)."""
        product: Tensor = onednn._linear_pointwise(rows, self._weight, bias, "none", [], "")
        return product


class Packed:
    """oneDNN's product, on a copy of the weights in its own order.

    weight   [outputs, inputs]
    few      up to so many rows are multiplied by our own loop, if the order is one that it knows
    ordered  whether it is; an embedding needs that too
    sums     whether our own loop returns float32, as it sums, rather than the dtype
    """

    sums = False

    def __init__(self, weight: Tensor, few: int = 0) -> None:
        self.outputs, self.inputs = weight.shape
        self.dtype = weight.dtype
        self._packed = onednn._reorder_linear_weight(weight, ROWS)
        self.address, size = onednn.data_ptr(self._packed), onednn._nbytes(self._packed)
        memory.gather(self.address, size)
        self.blocks = -(-self.outputs // BLOCK)
        self.padded, rest = divmod(size // weight.itemsize, self.blocks * BLOCK)
        self._order = (
            packed_order(weight.dtype) if self.padded >= self.inputs and not rest else None
        )
        self.ordered = self._order is not None and self._holds(weight)
        self.few = few if self.ordered else 0
        self._bias: Tensor | None = None
        self._loop: Products | None = None

    def up_to(self, few: int) -> Packed:
        """Return the same weights, multiplied by our own loop up to other numbers of rows."""
        found = copy(self)
        found.few, found._loop = few if self.ordered else 0, None
        return found

    def unrounded(self) -> Packed:
        """Return the same weights, whose products with few rows are float32."""
        found = copy(self)
        found.sums, found._loop = True, None
        return found

    def multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply (see `Weights`)."""
        if self.few:
            count = rows.numel() // self.inputs
            if count <= self.few:
                return self._few(rows, count, bias)
        product: Tensor = onednn._linear_pointwise(rows, self._packed, bias, "none", [], "")
        return product

    def look_up(self, outputs: Tensor) -> Tensor:
        """Gather what stands for some outputs (see `Weights`)."""
        assert self._order is not None, "an embedding needs weights that are `ordered`"
        flat = _view(self.address, self.blocks * BLOCK * self.padded, self.dtype)
        return self._order.look_up(flat, outputs, self.inputs, self.padded)

    def _holds(self, weight: Tensor) -> bool:
        """Return whether weights are where the order says, at both ends and between."""
        some = torch.tensor([0, self.outputs // 2, self.outputs - 1])
        return torch.equal(self.look_up(some), weight[some])

    def _few(self, rows: Tensor, count: int, bias: Tensor | None) -> Tensor:
        if self._loop is None or bias is not self._bias:
            self._bias, self._loop = bias, Products([self], [bias])
        return self._loop.multiply(rows, count)[0]


class Products:
    """Our own loop: products of the same few rows with packed weights, in one call.

    It is of one thread at a time.
    """

    def __init__(self, weights: Sequence[Packed], biases: Sequence[Tensor | None]) -> None:
        from kvedit.kernels.loops import OUTPUT, PART, ProductsTask, multiply  # needs numba

        first = weights[0]
        self._kept = tuple(weights), tuple(biases)
        self._run = multiply
        self._outputs = [each.outputs for each in weights]
        self._dtype = torch.float32 if first.sums else first.dtype
        self._parts = np.zeros((len(weights), PART), np.int64)
        for part, each, bias in zip(self._parts, weights, biases, strict=True):
            added = 0 if bias is None else bias.data_ptr()
            part[:] = (each.address, added, 0, each.outputs, each.blocks)
        self._written = self._parts[:, OUTPUT]
        self._task = ProductsTask(
            parts=self._parts.ctypes.data,
            sums=first.sums,
            count=len(weights),
            width=first.inputs,
            padded=first.padded,
            half=first.dtype.itemsize == 2,
        )

    def multiply(self, rows: Tensor, count: int) -> list[Tensor]:
        """Return the products.

        rows     [any, inputs]
        count    of rows: the product of the axes but the last
        returns  [any, outputs] of each, in the weights' dtype or float32
        """
        rows, axes = rows.contiguous(), rows.shape[:-1]
        products = [
            rows.new_empty((*axes, outputs), dtype=self._dtype) for outputs in self._outputs
        ]
        for index, product in enumerate(products):
            self._written[index] = product.data_ptr()
        self._task.inputs, self._task.rows = rows.data_ptr(), count
        self._run(self._task)
        return products


@cache
def packed_order(dtype: torch.dtype) -> Order | None:
    """Return the order in which oneDNN packs on this machine, if it is the one that loops know.

    It is found by packing numbers that tell where they come from.
    """
    if dtype not in DTYPES or cpu.refusal(dtype) is not None:
        return None
    outputs, inputs, digits = 2 * BLOCK, 64, 128  # each number in two digits, exact in half types
    weight = torch.arange(outputs * inputs).view(outputs, inputs)
    try:
        parts = []
        for digit in (weight % digits, weight // digits):
            packed = onednn._reorder_linear_weight(digit.to(dtype), ROWS)
            address, size = onednn.data_ptr(packed), onednn._nbytes(packed)
            parts.append(_view(address, size // dtype.itemsize, dtype).long())
    except (AttributeError, RuntimeError):  # this torch has no oneDNN, or one without the dtype
        return None
    order = Order(pairs=dtype.itemsize == 2)
    expected = order.look_up(parts[1] * digits + parts[0], torch.arange(outputs), inputs, inputs)
    return order if torch.equal(expected, weight) else None


def _view(address: int, count: int, dtype: torch.dtype) -> Tensor:
    """Return numbers at an address as a tensor that does not own them."""
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)
