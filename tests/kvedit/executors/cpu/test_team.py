"""Compiled code and code that is loaded again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BITS = """
import hashlib
import torch
from kvedit.executors.cases import CASES, Shape, outputs
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry

torch.set_num_threads(1)
layer = Layer(0, RotaryGeometry(1000.0 ** (-torch.arange(6).float() / 6)), 0.25)
shape = Shape(layer, 4, 2, 16, torch.float32, torch.device("cpu"))
for name in CASES:
    for read in outputs(CpuExecutor(), name, shape):
        print(name, hashlib.sha256(read.numpy().tobytes()).hexdigest())
"""


def test_a_process_that_compiles_computes_the_same_bits_as_one_that_loads(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run() -> str:
        command = [sys.executable, "-c", BITS]
        return subprocess.run(
            command, env=environment, text=True, capture_output=True, check=True
        ).stdout

    compiled = run()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nbc")}
    loaded = run()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nbc")} == kept != {}
    assert loaded == compiled
