"""Which executor reads: the fastest that measures right beside the specification, once, at load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.executors import Executor, cpu, gpu
from kvedit.executors.by_device import ByDevice
from kvedit.executors.cases import CASES, Shape, masses, outputs
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
    """Return the executor for layers of these kinds: on several devices, one for each if need be.

    Each candidate reads random spans in several ways, on every device that layers are on; one that
    raises, or is off, is not used there.
    """
    kinds: dict[torch.device, list[Shape]] = {}
    for shape in shapes:
        kinds.setdefault(shape.device, []).append(shape)
    choices = {device: _choose_on(own) for device, own in kinds.items()}
    executors = {device: choice.executor for device, choice in choices.items()}
    first, *others = choices.values()
    if not others:
        return first
    refusals: dict[str, str] = {}
    for device, choice in choices.items():
        for name, reason in choice.refusals.items():
            before = f"{refusals[name]}; " if name in refusals else ""
            refusals[name] = f"{before}on {device}: {reason}"
    alike = all(each.name == first.executor.name for each in executors.values())
    return Choice(first.executor if alike else ByDevice(executors), refusals)


def _choose_on(shapes: Sequence[Shape]) -> Choice:
    """Return the executor for layers of these kinds, which are all on one device."""
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
            reason = _unable(shape) or difference(make(), shape)
        except Exception as error:
            return f"it fails with {type(error).__name__}: {error}"
        if reason is not None:
            return reason
    return None


def _unable(shape: Shape) -> str | None:
    """Return why a layer's device has nothing but the specification for it, or None."""
    if shape.device.type == "cuda":
        return gpu.refusal(shape.dtype, shape.dim)
    return cpu.refusal(shape.dtype) if shape.device.type == "cpu" else None


@torch.inference_mode()
def difference(executor: Executor, shape: Shape) -> str | None:
    """Return in what an executor differs from the specification by more than rounding, or None."""
    both = (executor, TorchExecutor())
    for what in CASES:
        read = (torch.cat(list(outputs(each, what, shape)), 2) for each in both)
        if (off := _off(shape.dtype, *read)) is not None:
            return f"what it reads of {what} is off by {off:.1g}"
    off = _off(shape.dtype, *(masses(each, shape) for each in both))
    return None if off is None else f"how it weighs a set is off by {off:.1g}"


def _off(dtype: torch.dtype, found: Tensor, expected: Tensor) -> float | None:
    """Return the greatest difference if it is more than rounding."""
    own, single = (torch.finfo(each).eps for each in (dtype, torch.float32))
    allowed = max(ROUNDINGS * own, FLOAT_ROUNDINGS * single)
    exact = expected.double()
    off = float((found.double() - exact).abs().max())
    return None if off <= allowed * float(exact.abs().max()) else off
