"""Several sequences in one forward of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.hf import Door
from kvedit.together import Together
from server.engines.hf.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Rows:
    """What a shared forward gave.

    logits  [sequences, 1, vocab]
    failed  by place, the error of a sequence that failed in it; its logits mean nothing
    """

    logits: Tensor
    failed: Mapping[int, Exception]


def read(door: Door, sequences: Iterable[Sequence]) -> Rows:
    """Run the model once on what each sequence reads next, one after the other."""
    pending, readings = zip(*((each.pending, each.reading()) for each in sequences), strict=True)
    lengths = [ids.shape[1] for ids in pending]
    together, ids = Together(readings, lengths), torch.cat(pending, 1)
    last = torch.tensor(lengths, device=ids.device).cumsum(0) - 1
    logits = door.forward(ids, together, last)
    return Rows(logits.transpose(0, 1), together.failed)
