"""PINE's attention on a GPU: Triton kernels that turn queries and keep no matrix of scores.

They need the package `triton`, which torch for CUDA brings along; without it, and on other devices,
PINE reads by its path in plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from pine.gpu.plan import Plan

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDEST = 256  # dimensions of a head: beyond, a tile does not fit a multiprocessor


def available(query: Tensor) -> bool:
    """Return whether the kernels can read for this query, [batch, heads, query, dim]."""
    fits = query.dtype in DTYPES and query.shape[-1] <= WIDEST
    return query.is_cuda and fits and find_spec("triton") is not None


def plan_for(query: Tensor, prefix: int, sizes: Sequence[int], slots: Sequence[int]) -> Plan | None:
    """Return how the kernels cut a prompt (see `Plan.of`), or None where torch has to read it."""
    return Plan.of(prefix, sizes, slots, query) if available(query) else None
