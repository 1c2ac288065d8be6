"""Which executor reads: the fastest that measures right beside the specification, once, at load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from kvedit.executors import Executor
from kvedit.executors.cases import CASES, Shape, outputs
from kvedit.executors.torch import TorchExecutor

log = logging.getLogger(__name__)

# how much an executor may be off, relative to the greatest entry, in units of rounding
ROUNDINGS = 8  # of the dtype
FLOAT_ROUNDINGS = 512  # of float32, in which scores of some size are taken


@dataclass(frozen=True, slots=True)
class Choice:
    """Who reads, and by name why others do not."""

    executor: Executor
    refusals: Mapping[str, str]


def choose(shapes: Sequence[Shape]) -> Choice:
    """Return the executor for layers of these kinds, which are all on one kind of device.

    Each candidate reads random spans in several ways; one that raises, or is off, is not used.
    """
    refusals: dict[str, str] = {}
    for name, make in _candidates(shapes[0].device.type):
        reason = _refusal(make, shapes)
        if reason is None:
            log.info("executor '%s' reads", name)
            return Choice(make(), refusals)
        log.warning("executor '%s' cannot read: %s; 'torch' reads more slowly", name, reason)
        refusals[name] = reason
    return Choice(TorchExecutor(), refusals)


def _candidates(device: str) -> Iterator[tuple[str, Callable[[], Executor]]]:
    if device == "cpu":
        yield "cpu", _cpu
    if device == "cuda":
        yield "gpu", _gpu


def _cpu() -> Executor:
    from kvedit.executors.cpu.executor import CpuExecutor  # needs numba

    return CpuExecutor()


def _gpu() -> Executor:
    from kvedit.executors.gpu.executor import GpuExecutor  # needs triton

    return GpuExecutor()


def _refusal(make: Callable[[], Executor], shapes: Sequence[Shape]) -> str | None:
    """Return why an executor is not used for layers of these kinds, or None."""
    for shape in shapes:
        try:
            reason = difference(make(), shape)
        except Exception as error:
            return f"it fails with {type(error).__name__}: {error}"
        if reason is not None:
            return reason
    return None


@torch.inference_mode()
def difference(executor: Executor, shape: Shape) -> str | None:
    """Return in what an executor differs from the specification by more than rounding, or None."""
    own, single = (torch.finfo(dtype).eps for dtype in (shape.dtype, torch.float32))
    allowed = max(ROUNDINGS * own, FLOAT_ROUNDINGS * single)
    for what in CASES:
        found, expected = (
            torch.cat(list(outputs(each, what, shape)), 2).double()
            for each in (executor, TorchExecutor())
        )
        off = float((found - expected).abs().max())
        if not off <= allowed * float(expected.abs().max()):
            return f"what it reads of {what} is off by {off:.1g}"
    return None
