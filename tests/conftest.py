"""What must stand before a test module is imported (transformers imports triton where it is)."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the kernels' tests run them on the CPU

# a gate must not fail by chance on what a change did not touch; elsewhere every run looks further.
# No deadline anywhere: a test on a busy machine is not a benchmark
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
