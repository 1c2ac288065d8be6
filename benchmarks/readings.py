"""One decode step of each reading against a plain one of the same visible length.

A random Llama of 94M parameters, float32, 2 threads; all run through the door in one process,
alternately. LM-Infinite sees its window and the first tokens, group positions half of the length in
each group.
"""

import sys

sys.path.pop(0)  # this folder: there scripts would hide the packages of their names

from functools import partial

import torch

from benchmarks._harness import Row, arguments, medians, show, timed
from benchmarks._llama import random_llama
from kvedit.group_position import GroupPositionReading
from kvedit.hf import Door, open_door
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading
from kvedit.reading import Reading

LENGTHS = (1024, 4096)  # visible tokens
FIRST = 10
STEPS = 16  # tokens per measurement


def readings(door: Door, length: int) -> dict[str, Reading]:
    """Return readings whose next tokens see about `length` tokens."""
    ids = torch.randint(32000, (1, length + 64), generator=torch.Generator().manual_seed(length))
    plain = PlainReading()
    endless = LmInfiniteReading(FIRST, length - FIRST, length - FIRST)
    groups = GroupPositionReading(offset=length)
    groups.feed(length // 2)
    door.forward(ids[:, :length], plain)
    for piece in ids.split(512, 1):
        door.forward(piece, endless)
    door.forward(ids[:, :length], groups)
    groups.feed(0)
    return {"plain": plain, "LM-Infinite": endless, "group positions": groups}


def measure(door: Door, length: int, runs: int) -> list[Row]:
    """Return what a step of each costs, in milliseconds, and plain's."""
    token, kinds = torch.tensor([[7]]), readings(door, length)

    def step(reading: Reading) -> float:
        return timed(lambda: [door.forward(token, reading) for _ in range(STEPS)]) / STEPS * 1e3

    for reading in kinds.values():
        step(reading)
    found = medians(runs, {name: partial(step, own) for name, own in kinds.items()})
    case = f"{length} visible tokens, executor {door.executor.name}"
    return [
        Row(case, f"decode step, {name} / plain", found[name], "ms", found["plain"])
        for name in kinds
        if name != "plain"
    ]


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(2)
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    door = open_door(random_llama("94M"))
    lengths = LENGTHS[:1] if options.quick else LENGTHS
    rows = [row for length in lengths for row in measure(door, length, 5 if options.quick else 11)]
    show("Readings, random 94M Llama, float32, 2 threads", rows, options.json)


if __name__ == "__main__":
    main()
