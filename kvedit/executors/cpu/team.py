"""Compiled loops on torch's own team of threads: a second team would fight it for the cores.

A kernel is a C function of one address, that of its task: numbers and addresses of tensors. OpenMP
calls it once on every thread, and it takes its share by `share`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
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

# how loops see numbers of a dtype: those of 16 bits as integers
KINDS: Mapping[torch.dtype, Any] = MappingProxyType(
    {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.float16: np.int16}
)

_FEATURES = llvmlite.binding.get_host_cpu_features()
# without the instructions, float16 would be converted by calls that nobody links
_CONVERTS = KINDS.keys() if _FEATURES.get("f16c", True) else KINDS.keys() - {torch.float16}

_library = openmp.library()
assert _library is not None, "loops are compiled where `pine.cpu.available`"
llvmlite.binding.load_library_permanently(_library)

carray: Any = numba.carray  # type: ignore[attr-defined]
thread_number: Any = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads: Any = types.ExternalFunction("omp_get_num_threads", types.int32())
meet: Any = types.ExternalFunction("GOMP_barrier", types.void())


class Task(ctypes.Structure):
    """What a kernel is called with; subclasses name the fields."""

    @property
    def address(self) -> int:
        """Return where it is, for another task to name it."""
        return ctypes.addressof(self)


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

    It is compiled when it first runs: a model in one dtype has no need of the others' code. What is
    compiled is kept on disk, beside the source or in the user's cache, where there is one.
    """
    parallel = ctypes.CDLL(_library).GOMP_parallel
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None

    @cache
    def address() -> int:
        signature, compiler = types.void(types.voidptr), cast("Any", numba.cfunc)
        options = {"fastmath": SUMS, "error_model": "numpy"}
        try:
            compiled = compiler(signature, cache=True, **options)(function)
        except RuntimeError:  # there is no folder that can be written to
            compiled = compiler(signature, **options)(function)
        keep.append(compiled)
        return int(compiled.address)

    @cache
    def alone() -> Callable[[int], None]:
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address())

    keep: list[object] = []  # the code lives as long as this

    def run(task: Task, *, team: bool = True) -> None:
        count = torch.get_num_threads()
        if count == 1 or not team:
            alone()(ctypes.addressof(task))
        else:
            parallel(address(), ctypes.addressof(task), count, 0)

    return run


def converts(dtype: torch.dtype) -> bool:
    """Return whether compiled loops can read and write numbers of a dtype on this machine."""
    return dtype in _CONVERTS


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
def _nothing_known(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


_void: Any = _nothing_known


@intrinsic
def _fetch(typing: Any, address: Any) -> Any:
    """Ask for the memory at an address, soon to be read."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, number = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
        place = builder.inttoptr(values[0], address)
        builder.call(prefetch, [place, number(0), number(3), number(1)])  # read, keep, data
        return context.get_dummy_value()

    return types.void(types.int64), generate


fetch: Any = _fetch  # without the argument that numba fills in


@intrinsic
def _widened(typing: Any, number: Any) -> Any:
    """Return a number of a kind (see `KINDS`) as float32, which is exact."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        single, bits = ir.FloatType(), ir.IntType(32)
        if number == types.float32:
            return values[0]
        if number == types.uint16:  # the upper half of a float32
            return builder.bitcast(builder.shl(builder.zext(values[0], bits), bits(16)), single)
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), single)

    return types.float32(number), generate


widened: Any = _widened


@intrinsic
def _narrowed(typing: Any, number: Any, kind: Any) -> Any:
    """Return a float32 as the nearest number of a kind; of two, the even one."""
    target = kind.dtype

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits, half = ir.IntType(32), ir.IntType(16)
        if target == types.float32:
            return values[0]
        if target == types.int16:
            return builder.bitcast(builder.fptrunc(values[0], ir.HalfType()), half)
        own = builder.bitcast(values[0], bits)
        odd = builder.and_(builder.lshr(own, bits(16)), bits(1))
        rounded = builder.add(own, builder.add(odd, bits(0x7FFF)))
        upper = builder.trunc(builder.lshr(rounded, bits(16)), half)
        nan = builder.fcmp_unordered("uno", values[0], values[0])
        return builder.select(nan, half(0x7FC0), upper)

    return target(types.float32, kind), generate


narrowed: Any = _narrowed


@loop
def floats(address: int, shape: Any) -> Any:
    """Return the array of float32 at an address."""
    return carray(pointer(address, np.float32), shape)


@loop
def stored(address: int, shape: Any, kind: Any) -> Any:
    """Return the array of numbers of a kind at an address."""
    return carray(pointer(address, kind), shape)


@loop
def record(address: int, kind: Any) -> Any:
    """Return the task at an address."""
    return carray(_void(address), 1, kind)[0]


@loop
def whole(address: int, shape: Any) -> Any:
    """Return the array of int64 at an address."""
    return carray(pointer(address, np.int64), shape)
