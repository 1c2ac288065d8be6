"""What must stand before a test module is imported: transformers imports triton where it is."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the kernels' tests run them on the CPU
