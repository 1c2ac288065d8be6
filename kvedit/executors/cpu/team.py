"""Compiled loops on torch's own team of threads: a second team would fight it for the cores.

A kernel is a C function of one address, that of its task: numbers and addresses of tensors. OpenMP
calls it once on every thread, and it takes its share by `share`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kvedit.executors.cpu import openmp

Function = TypeVar("Function", bound=Callable[..., Any])

# What a kernel calls becomes part of it. A function left outside would be kept with the kernel as a
# copy that was optimised for it, and only a process that loads the kernel would run that copy: one
# that has compiled it finds the function itself first, and its sums end in other bits.
INSIDE: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}
# sums may be taken in another order and products fused with them, but what is -inf stays so
SUMS = {"reassoc", "contract", "nsz", "arcp"}

_library = openmp.library()
assert _library is not None, "loops are compiled where `pine.cpu.available`"
llvmlite.binding.load_library_permanently(_library)

carray: Any = numba.carray  # type: ignore[attr-defined]
thread_number: Any = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads: Any = types.ExternalFunction("omp_get_num_threads", types.int32())
meet: Any = types.ExternalFunction("GOMP_barrier", types.void())


class Task(ctypes.Structure):
    """What a kernel is called with; subclasses name the fields."""


def integers(*names: str) -> list[tuple[str, Any]]:
    """Return fields of a task: numbers, or addresses."""
    return [(name, ctypes.c_int64) for name in names]


def formula(function: Function) -> Function:
    """Compile a function of numbers to the letter: products may fuse with sums, no more."""
    return cast("Function", numba.njit(fastmath={"contract"}, **INSIDE)(function))


def loop(function: Function) -> Function:
    """Compile a part of a kernel."""
    return cast("Function", numba.njit(fastmath=SUMS, **INSIDE)(function))


class Kernel(Protocol):
    """A compiled function of a task."""

    def __call__(self, task: Task, *, team: bool = True) -> None:
        """Run it, and wait for its end.

        team  whether all threads do; a task of microseconds is done before they have met
        """
        ...


def kernel(function: Callable[[Any], None]) -> Kernel:
    """Compile a function of a task's address.

    The machine code is kept on disk, beside the source or in the user's cache, where there is one.
    """
    signature, compiler = types.void(types.voidptr), cast("Any", numba.cfunc)
    options = {"fastmath": SUMS, "error_model": "numpy"}
    try:
        compiled = compiler(signature, cache=True, **options)(function)
    except RuntimeError:  # there is no folder that can be written to
        compiled = compiler(signature, **options)(function)
    alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address)
    parallel = ctypes.CDLL(_library).GOMP_parallel
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None

    def run(task: Task, *, team: bool = True) -> None:
        count = torch.get_num_threads()
        if count == 1 or not team:
            alone(ctypes.addressof(task))
        else:
            parallel(compiled.address, ctypes.addressof(task), count, 0)

    return run


@formula
def share(count: int) -> tuple[int, int]:
    """Return the first part, and the one after the last, that this thread does of some parts."""
    thread, team = thread_number(), _threads()
    return count * thread // team, count * (thread + 1) // team


@intrinsic
def _pointer_to(typing: Any, address: Any, kind: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    pointer: Any = types.CPointer
    return pointer(kind.dtype)(types.int64, kind), generate


pointer: Any = _pointer_to


@intrinsic
def _fetch(typing: Any, array: Any, place: Any) -> Any:
    """Ask for the memory of an array around a place, soon to be read."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        address, number = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
        place = builder.bitcast(builder.gep(data, [values[1]]), address)
        builder.call(prefetch, [place, number(0), number(3), number(1)])  # read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


fetch: Any = _fetch  # without the argument that numba fills in


@loop
def floats(address: int, shape: Any) -> Any:
    """Return the array of float32 at an address."""
    return carray(pointer(address, np.float32), shape)


@loop
def whole(address: int, shape: Any) -> Any:
    """Return the array of int64 at an address."""
    return carray(pointer(address, np.int64), shape)
