"""Which kernel multiplies layers of one shape: the fastest that measures right, once, at load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, fsum, inf, log
from time import perf_counter

import torch
from torch import Tensor

from kvedit.kernels.weights import Packed, Stock, Unpacked, Weights

logger = logging.getLogger(__name__)

SAMPLE = 64 * 2**20  # bytes of weights that are measured: more than caches hold
ROWS = (1, 4, 16, 128)  # of a step alone, of steps together, of a prompt
MOST_FEW = 3  # rows that our own loop is tried for
TRIES = 5  # of which the quickest counts: whatever else runs only slows
MANY, MANY_SAMPLE = 64, 2  # rows that take so long that so many weights do
WORTH = 1.05  # times as fast as what is simpler, or it is not used
# times as slow as others, packed weights may seem, and our own loop for one row beside oneDNN: what
# is joined to that loop gains more than the noise of a measurement
LENIENT = 1.2
# how much a kernel may be off, relative to the greatest entry, in units of rounding
ROUNDINGS = 8  # of the dtype
FLOAT_ROUNDINGS = 512  # of float32, in which sums of some length are taken

Make = Callable[[Tensor], Weights]


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel of one shape.

    name  stock, unpacked or packed
    few   rows up to which packed weights are multiplied by our own loop
    """

    name: str
    few: int = 0

    @property
    def make(self) -> Make:
        """Return what makes a layer's weights."""
        if self.name == "packed":
            return lambda weight: Packed(weight, self.few)
        return {"stock": Stock, "unpacked": Unpacked}[self.name]

    def __str__(self) -> str:
        """Return the name as it is shown."""
        return self.name if not self.few else f"{self.name}, our loop up to {self.few} rows"


@torch.inference_mode()
def choose(weights: Sequence[Tensor], packing: bool = True) -> Choice:
    """Return the kernel for weights of one shape and dtype.

    weights  [outputs, inputs] each, of several layers; they stay as they are
    packing  whether they may be packed: not if something else reads them too
    """
    sample = _sample(weights)
    held: dict[str, Sequence[Weights]] = {"stock": [Stock(weight) for weight in sample]}
    held.update(_right(sample, packing))
    times = dict(zip(held, _times(list(held.values()), ROWS), strict=True))
    best = "stock"
    if "packed" in times and _speed(times[best], times["packed"]) >= 1 / LENIENT:
        best = "packed"
    if "unpacked" in times:
        bar = WORTH if best == "stock" else LENIENT
        best = "unpacked" if _speed(times[best], times["unpacked"]) >= bar else best
    if best != "packed":
        return Choice(best)
    return Choice("packed", _few(sample, held["packed"]))


def difference(held: Weights, weight: Tensor) -> str | None:
    """Return in what a kernel differs from the product in float64 by more than rounding, or None.

    weight  [outputs, inputs], which the kernel holds
    """
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(weight.shape[0], generator=generator).to(weight.dtype)
    rows = torch.randn((MOST_FEW + 2, weight.shape[1]), generator=generator).to(weight.dtype)
    # some outputs at a time, for the sake of memory
    exact = torch.cat([rows.double() @ part.double().T for part in weight.split(4096)], 1)
    own, single = (torch.finfo(each).eps for each in (weight.dtype, torch.float32))
    allowed = max(ROUNDINGS * own, FLOAT_ROUNDINGS * single) * float(exact.abs().max())
    for count in range(1, len(rows) + 1):
        for added in (None, bias):
            expected = exact[:count] if added is None else exact[:count] + added.double()
            off = float((held.multiply(rows[:count], added).double() - expected).abs().max())
            if not off <= allowed:
                return f"its product of {count} rows is off by {off:.1g}"
    return None


def _right(sample: Sequence[Tensor], packing: bool) -> Iterator[tuple[str, list[Weights]]]:
    """Yield the kernels that multiply right here, with a sample that they hold."""
    for name in ("unpacked", "packed") if packing else ("unpacked",):
        held = list[Weights]()
        try:
            held += map(Choice(name).make, sample)
            off = difference(held[0], sample[0])
        except Exception as error:  # a torch without it, a dtype that the machine lacks
            off = f"it fails with {type(error).__name__}: {error}"
        if off is None:
            yield name, held
        else:
            logger.info("kernel '%s' does not multiply %s: %s", name, tuple(sample[0].shape), off)


def _few(sample: Sequence[Tensor], packed: Sequence[Weights]) -> int:
    """Return up to how many rows our own loop is faster than oneDNN on packed weights.

    packed  the sample, as oneDNN multiplies it
    """
    looped = [each.up_to(MOST_FEW) for each in packed if isinstance(each, Packed)]
    if not looped[0].few:
        return 0
    try:
        if (off := difference(looped[0], sample[0])) is not None:
            logger.warning("our loop does not multiply %s: %s", tuple(sample[0].shape), off)
            return 0
        theirs, ours = _times([packed, looped], range(1, MOST_FEW + 1))
    except Exception:
        logger.warning("our loop does not multiply", exc_info=True)
        return 0
    bars = [1 / LENIENT, *[WORTH] * (MOST_FEW - 1)]
    pays = [mine * bar <= other for mine, bar, other in zip(ours, bars, theirs, strict=True)]
    return pays.index(False) if False in pays else MOST_FEW


def _sample(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return some of the weights, or a part of the only ones, if they are many."""
    found, left = list[Tensor](), SAMPLE
    for weight in weights:
        if left <= 0:
            break
        most = max(left // (weight.shape[1] * weight.itemsize), 1)
        found.append(weight[:most] if not found else weight)
        left -= found[-1].nbytes
    return found


def _times(held: Sequence[Sequence[Weights]], counts: Sequence[int]) -> list[list[float]]:
    """Return the seconds that all of a sample takes, by kernel and number of rows.

    held  the sample, by kernel; they take turns, so that a slow moment of the machine hits all
    """
    found = [[inf] * len(counts) for _ in held]
    for index, count in enumerate(counts):
        for _ in range(TRIES):
            for kernel, weights in enumerate(held):
                seconds = _time(weights[: MANY_SAMPLE if count >= MANY else None], count)
                found[kernel][index] = min(found[kernel][index], seconds)
    return found


def _time(weights: Sequence[Weights], count: int) -> float:
    rows = torch.ones((count, weights[0].inputs), dtype=weights[0].dtype)
    start = perf_counter()
    for each in weights:
        each.multiply(rows, None)
    return perf_counter() - start


def _speed(old: Sequence[float], new: Sequence[float]) -> float:
    """Return how many times as fast the new one is, as a mean over the numbers of rows."""
    return exp(fsum(log(a / b) for a, b in zip(old, new, strict=True)) / len(old))
