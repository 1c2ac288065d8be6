"""Peak memory of PINE against plain attention: what prefill and decode hold above the model.

Each way runs in a process of its own, alternately; the kernel's high-water mark of resident memory
is reset once the model and the compiled loops are there, and read after a prompt and some decoded
tokens (Linux only). What the loops take, with the compiler, is measured apart: it is the same for
every prompt and model.
"""

import sys

sys.path.pop(0)  # this folder: there the script's own name would hide the package `pine`

import ctypes
import gc
import subprocess
from functools import partial
from pathlib import Path

import torch

from benchmarks._harness import Row, arguments, medians, show
from benchmarks._llama import random_llama
from benchmarks._memory import resident
from benchmarks.pine import CASES, WAYS, Sides
from kvedit.executors import cpu
from kvedit.hf import open_door

MEGABYTE = 2**20
MODEL = 94e6 * 4 / MEGABYTE
LOOPS = "loops"


@torch.inference_mode()
def peak(case: str, way: str) -> float:
    """Return the most that one way holds above model and loops, MB, or what the loops take."""
    torch.set_num_threads(2)
    model = random_llama("94M")
    before = resident("VmRSS")
    if (refusal := cpu.refusal(torch.float32)) is not None:
        raise SystemExit(f"loops must run to be measured, got: {refusal}")
    if way == LOOPS:
        return (resident("VmRSS") - before) / MEGABYTE
    sides = Sides(open_door(model), case, ways=(way,))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    sides.prefill(way)
    sides.decode(way)
    return (resident("VmHWM") - before) / MEGABYTE


def alone(case: str, way: str) -> float:
    """Return the same, measured in a process of its own."""
    asked = [sys.executable, __file__, case, way]
    return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, print, write; with a case and a way, print that one's peak."""
    if len(sys.argv) == 3 and sys.argv[1] in CASES:
        print(peak(*sys.argv[1:]))
        return
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    cases = tuple(CASES)[:2] if options.quick else tuple(CASES)
    rows: list[Row] = []
    for case in cases:
        ways = {way: partial(alone, case, way) for way in WAYS}
        found = medians(1 if options.quick else 3, ways)
        for other in ("lean", "stock"):
            metric = f"peak above model and loops, PINE / {other}"
            rows.append(Row(f"94M {case}", metric, found["pine"], "MB", found[other]))
    rows.append(Row("any", "loops and compiler / model", alone("2 x 512", LOOPS), "MB", MODEL))
    show("PINE, peak memory, random 94M Llama, float32", rows, options.json)


if __name__ == "__main__":
    main()
