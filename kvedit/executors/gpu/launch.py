"""What every launch of a kernel needs."""

from __future__ import annotations

from collections.abc import Callable
from math import e, log2
from typing import Protocol

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from kvedit.executors.gpu.tiling import Tile
from kvedit.reading import Layer

LOG2_E = log2(e)
PROGRAMS = 512  # of a launch: work is split up to about this number, so that few rows fill a GPU


class Kernel(Protocol):
    """A function that Triton compiles."""

    __name__: str

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        """Return what launches it on a grid of programs."""
        ...


def run(
    kernel: Kernel, grid: tuple[int, ...], tile: Tile, query: Tensor, *arguments: object
) -> None:
    """Launch a kernel on the query's device; products fuse with sums whatever Triton's default."""
    with torch.cuda.device_of(query):
        kernel[grid](
            query,
            *arguments,
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=True,
        )


def interpreted() -> bool:
    """Return whether Triton's interpreter runs the kernels, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def scale(layer: Layer) -> tuple[float, float]:
    """Return the factor on a product and the cap in base 2; see `tiles.bounded`."""
    if layer.softcap is None:
        return layer.scaling * LOG2_E, 0.0
    return layer.scaling / layer.softcap, layer.softcap * LOG2_E


def pairs(layer: Layer) -> tuple[int, bool]:
    """Return how many rotary pairs turn, and whether they are interleaved."""
    if layer.geometry is None:
        return 0, False
    return layer.geometry.inv_freq.shape[-1], layer.geometry.layout == "interleaved"


def inv_freq(layer: Layer, unread: Tensor) -> Tensor:
    """Return the frequencies, or for a layer without positions any tensor: it is not read."""
    return unread if layer.geometry is None else layer.geometry.inv_freq
