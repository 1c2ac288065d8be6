"""Devices that are not there: tensors that say they are on one, and will not mix with another's.

Everything is computed on the CPU. What is seen is where each tensor is made, and whether two
devices meet in one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

# torch has this name and a guard for it, and runs nothing there: what slips by is an error
ONE, OTHER = torch.device("lazy", 0), torch.device("lazy", 1)
CPU = torch.device("cpu")

aten = torch.ops.aten
MOVES = (aten.copy_.default,)
# as on a GPU, what is indexed takes indices from the CPU too
TAKES = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)

Leaf = Callable[[object], object]


class Placed(Tensor):
    """A tensor that says it is on a device; what it holds is on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(
        cls: type[Placed], held: Tensor, device: torch.device = CPU, requires_grad: bool = False
    ) -> Placed:
        if isinstance(held, Placed):  # whoever fills a parameter's place makes one of its class
            return held
        placed: Placed = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        placed.held = held
        return placed

    def tolist(self) -> list[Any]:
        """Return the numbers, which torch asks of no subclass."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def,override]  # noqa: ANN001, ANN206
        return run(func, args, kwargs or {})


class Devices(TorchDispatchMode):
    """While this is entered, `ONE` and `OTHER` are devices."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._before = False

    def __enter__(self) -> Devices:
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` makes its own on the CPU first
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        torch._C._set_only_lift_cpu_tensors(self._before)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Compute on the CPU what is asked of tensors of one device."""
    leaves = [*_leaves(args), *_leaves(tuple(kwargs.values()))]
    given = [each for each in leaves if isinstance(each, Tensor)]
    asked = [each for each in leaves if isinstance(each, torch.device)]
    where = asked[0] if asked else _meeting(func, given)
    if func is aten._fused_sdp_choice.default and where != CPU:
        return 0  # the formula: what is faster is chosen by the device's name
    found = func(*_each(_held, args), **{name: _each(_held, each) for name, each in kwargs.items()})
    if where == CPU:
        return found
    found = _each(lambda each: Placed(each, where) if isinstance(each, Tensor) else each, found)
    if given and given[0].device != where:
        return found  # moved, hence a copy
    return return_and_correct_aliasing(func, args, kwargs, found)


def _meeting(func: object, given: list[Tensor]) -> torch.device:
    """Return the device of an operation's tensors; single numbers from the CPU go with any."""
    if func in MOVES:
        return given[0].device
    own = [each for each in given if each.dim() or each.device != CPU]
    devices = {each.device for each in own}
    if func in TAKES and own[0].device != CPU:
        devices.discard(CPU)
    if len(devices) > 1:
        raise RuntimeError(f"{func} must meet one device, got {[each.device for each in given]}")
    return devices.pop() if devices else CPU


def _held(each: object) -> object:
    """Return what an argument is on the CPU."""
    if isinstance(each, torch.device):
        return CPU
    return each.held if isinstance(each, Placed) else each


def _each(change: Leaf, value: Any) -> Any:  # noqa: ANN401
    """Change all that some arguments are made of."""
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)([_each(change, each) for each in value])
    return change(value)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
