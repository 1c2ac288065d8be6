"""Reading on a CPU: compiled loops that do in one pass what torch does in many.

Numba compiles them once for the machine, and keeps the code on disk; they run on torch's threads.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch

from kvedit.executors.cpu import openmp

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refusal(dtype: torch.dtype) -> str | None:
    """Return why the loops cannot read here, or None; what is not on disk yet is compiled."""
    if dtype not in DTYPES:
        return f"its loops are for float32 at most, got {str(dtype).removeprefix('torch.')}"
    if find_spec("numba") is None:
        return "numba is not installed"
    if openmp.library() is None:
        return "torch's OpenMP library is not known"
    try:
        import_module("kvedit.executors.cpu.loops")
    except ImportError as error:  # a numba that does not suit this numpy says so
        return f"its loops cannot be compiled: {error}"
    return None
