"""Reading on a GPU: Triton kernels that turn queries and keep no matrix of scores.

They need the package `triton`, which torch for CUDA brings along.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDEST = 256  # dimensions of a head: beyond, a tile does not fit a multiprocessor


def refusal(dtype: torch.dtype, dim: int) -> str | None:
    """Return why the kernels cannot read heads of a dtype and width, or None."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if dtype not in DTYPES:
        return f"its kernels are for float32 at most, got {str(dtype).removeprefix('torch.')}"
    if dim > WIDEST:
        return f"its kernels are for heads of {WIDEST} dimensions at most, got {dim}"
    return None
