"""PINE's attention on a CPU: compiled loops that do in one pass what torch does in many.

Numba compiles them once for the machine, and keeps the code on disk; they run on torch's threads.
Other devices, float64, and a torch without OpenMP read by plain torch.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from pine.cpu import openmp

log = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def available(query: Tensor) -> bool:
    """Return whether the loops can read for this query, [batch, heads, query, dim]."""
    fits = query.dtype in DTYPES and not query.requires_grad
    return query.device.type == "cpu" and fits and prepare()


@cache
def prepare() -> bool:
    """Compile what is not on disk yet, which takes some seconds once; return whether loops run."""
    if find_spec("numba") is None or openmp.library() is None:
        return False
    try:
        import_module("pine.cpu.loops")
    except ImportError as error:  # a numba that does not suit this numpy says so
        log.warning("PINE reads by plain torch, since its loops cannot be compiled: %s", error)
        return False
    return True
