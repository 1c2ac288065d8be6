"""The loops of the kernels: in one file, since what is compiled is kept until that changes.

Weights lie as oneDNN packs them (see `kvedit.kernels.order`), so that a thread reads its own from
end to end. Numbers are float32, or bfloat16 where `half` is not 0; sums are float32, and each is
taken by one thread: how many there are changes no bit.
"""

from __future__ import annotations

from ctypes import c_float
from typing import Any

import numpy as np
import torch

from kvedit.executors.cpu.loops import FLOAT, LOG2_E, Array, Number, copy, exp2, narrow
from kvedit.executors.cpu.team import (
    KINDS,
    Task,
    carray,
    floats,
    formula,
    integers,
    kernel,
    loop,
    meet,
    narrowed,
    share,
    stored,
    whole,
    widened,
)
from kvedit.kernels.order import BLOCK

WORD: Any = np.uint32
HALF: Any = KINDS[torch.bfloat16]
WEIGHTS, BIAS, OUTPUT, OUTPUTS, BLOCKS = range(5)  # of the record of a product
PART = 5


class ProductsTask(Task):
    """Products of the same few rows with several packed weights.

    inputs  [rows, width]
    parts   [count, PART] addresses of the weights, of the bias (or 0) and of the output,
            [rows, outputs], written; `outputs`, and the blocks that they fill
    padded  inputs of the weights, those that are zero included
    sums    not 0 = the output is float32, as it was summed, whatever the dtype
    """

    _fields_ = integers("inputs", "parts", "count", "rows", "width", "padded", "half", "sums")


class GatedTask(Task):
    """A gated layer: `down(silu(gate(row)) * up(row))`, of a few rows.

    inputs          [rows, width]
    gate, up, down  packed weights; `padded` inputs of the first two, `deep` of the last
    output          [rows, outputs]; written
    scratch         [rows, deep] float32, zero beyond `inner`
    """

    _fields_ = integers(
        *("inputs", "gate", "up", "down", "output", "scratch"),
        *("rows", "width", "padded", "inner", "deep", "outputs", "half"),
    )


class NormTask(Task):
    """Root-mean-square norms: `weight * row / sqrt(mean(row^2) + eps)`.

    inputs, output  [rows, width]
    weight          [width]
    """

    _fields_ = (*integers("inputs", "weight", "output", "rows", "width", "half"), ("eps", c_float))


PRODUCTS, GATED, NORM = np.dtype(ProductsTask), np.dtype(GatedTask), np.dtype(NormTask)


@loop
def take(address: Number, half: Number, target: Array) -> None:
    """Read numbers as float32."""
    if half:
        source = stored(address, (len(target),), HALF)
        for i in range(len(target)):
            target[i] = widened(source[i])
    else:
        copy(floats(address, (len(target),)), target)


@loop
def give(numbers: Array, address: Number, half: Number) -> None:
    """Write float32 numbers in the dtype."""
    if half:
        narrow(numbers, stored(address, (len(numbers),), HALF), HALF)
    else:
        copy(numbers, floats(address, (len(numbers),)))


@loop
def add_single(row: Array, weights: Array, summed: Array) -> None:
    """Add a row's product with one block in float32.

    row      [padded]
    weights  [padded, BLOCK]
    summed   [BLOCK]
    """
    for i in range(0, len(weights), 4):
        a, b, c, d = row[i], row[i + 1], row[i + 2], row[i + 3]
        for j in range(BLOCK):
            summed[j] += (a * weights[i, j] + b * weights[i + 1, j]) + (
                c * weights[i + 2, j] + d * weights[i + 3, j]
            )


@loop
def add_half(row: Array, weights: Array, summed: Array) -> None:
    """Add a row's product with one block in bfloat16.

    row      [padded]
    weights  [padded / 2, BLOCK] pairs: the even input's in the lower half
    summed   [BLOCK]
    """
    upper = WORD(0xFFFF0000)
    for i in range(0, len(weights), 2):
        a, b, c, d = row[2 * i], row[2 * i + 1], row[2 * i + 2], row[2 * i + 3]
        for j in range(BLOCK):
            one, two = weights[i, j], weights[i + 1, j]
            summed[j] += (
                a * WORD(one << WORD(16)).view(FLOAT) + b * WORD(one & upper).view(FLOAT)
            ) + (c * WORD(two << WORD(16)).view(FLOAT) + d * WORD(two & upper).view(FLOAT))


@loop
def add(row: Array, weights: Number, block: Number, half: Number, summed: Array) -> None:
    """Add a row's product with one block of the weights at an address."""
    padded = len(row)
    if half:
        lines = padded // 2
        at = weights + block * lines * BLOCK * 4
        add_half(row, stored(at, (lines, BLOCK), WORD), summed)
    else:
        add_single(row, floats(weights + block * padded * BLOCK * 4, (padded, BLOCK)), summed)


@loop
def rows_of(task: Array) -> Array:
    """Return the rows as float32, zero behind their width."""
    rows, size = np.zeros((task.rows, task.padded), FLOAT), 2 if task.half else 4
    for row in range(task.rows):
        take(task.inputs + row * task.width * size, task.half, rows[row, : task.width])
    return rows


@kernel
def multiply(address: Number) -> None:
    """Multiply the same rows with several weights (see `ProductsTask`)."""
    task = carray(address, 1, PRODUCTS)[0]
    rows, half = rows_of(task), task.half
    parts = whole(task.parts, (task.count, PART))
    size, summed, before = 2 if half else 4, np.empty(BLOCK, FLOAT), 0
    rounded = 0 if task.sums else half
    step = 2 if rounded else 4
    first, last = share(parts[:, BLOCKS].sum())
    for part in range(task.count):
        own = parts[part]
        for block in range(max(first - before, 0), min(last - before, own[BLOCKS])):
            begin = block * BLOCK
            count = min(BLOCK, own[OUTPUTS] - begin)
            for row in range(task.rows):
                summed[:] = 0
                if own[BIAS]:
                    take(own[BIAS] + begin * size, half, summed[:count])
                add(rows[row], own[WEIGHTS], block, half, summed)
                give(summed[:count], own[OUTPUT] + (row * own[OUTPUTS] + begin) * step, rounded)
        before += own[BLOCKS]


@formula
def silu(x: Number) -> Number:
    """Return `x / (1 + exp(-x))`."""
    small = exp2(-abs(x) * LOG2_E)
    return x / (FLOAT(1) + small) * (FLOAT(1) if x >= 0 else small)


@kernel
def gated(address: Number) -> None:
    """Compute a gated layer (see `GatedTask`)."""
    task = carray(address, 1, GATED)[0]
    rows, half = rows_of(task), task.half
    scratch = floats(task.scratch, (task.rows, task.deep))
    size, summed = 2 if half else 4, np.empty(BLOCK, FLOAT)
    first, last = share((task.inner + BLOCK - 1) // BLOCK)
    for block in range(first, last):  # all of the gate, then of the other: memory likes long ways
        for row in range(task.rows):
            made = scratch[row, block * BLOCK : min((block + 1) * BLOCK, task.inner)]
            summed[:] = 0
            add(rows[row], task.gate, block, half, summed)
            for j in range(len(made)):
                made[j] = silu(summed[j])
    for block in range(first, last):
        for row in range(task.rows):
            made = scratch[row, block * BLOCK : min((block + 1) * BLOCK, task.inner)]
            summed[:] = 0
            add(rows[row], task.up, block, half, summed)
            for j in range(len(made)):
                made[j] *= summed[j]
                if half:
                    made[j] = widened(narrowed(made[j], HALF))
    meet()
    first, last = share((task.outputs + BLOCK - 1) // BLOCK)
    for block in range(first, last):
        begin = block * BLOCK
        count = min(BLOCK, task.outputs - begin)
        for row in range(task.rows):
            summed[:] = 0
            add(scratch[row], task.down, block, half, summed)
            give(summed[:count], task.output + (row * task.outputs + begin) * size, half)


@kernel
def norm(address: Number) -> None:
    """Norm rows (see `NormTask`); half types are rounded before the weight too, as in models."""
    task = carray(address, 1, NORM)[0]
    half, size = task.half, 2 if task.half else 4
    row, weight = np.empty(task.width, FLOAT), np.empty(task.width, FLOAT)
    take(task.weight, half, weight)
    first, last = share(task.rows)
    for each in range(first, last):
        take(task.inputs + each * task.width * size, half, row)
        squares = FLOAT(0)
        for i in range(len(row)):
            squares += row[i] * row[i]
        factor = FLOAT(1) / np.sqrt(squares / FLOAT(task.width) + FLOAT(task.eps))
        for i in range(len(row)):
            number = row[i] * factor
            row[i] = weight[i] * (widened(narrowed(number, HALF)) if half else number)
        give(row, task.output + each * task.width * size, half)
