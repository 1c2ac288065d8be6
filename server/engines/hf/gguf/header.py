"""The header of a GGUF file: what it says of the model, and where each tensor lies."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from server.engines.hf.broken import broken

VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where the file names none
SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
FORMATS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one tensor lies.

    shape   in torch's order
    kind    how its values are packed
    offset  from the file's start, bytes
    size    bytes
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says before its tensors."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    @property
    def architecture(self) -> str:
        """Return what llama.cpp calls the kind of model."""
        return str(self.metadata.get("general.architecture"))


def read_header(path: Path) -> Header:
    """Read a file's header.

    raises  EngineError  it is no GGUF file, cut off, or one of several that belong together
    """
    if SHARD.search(path.name) is not None:
        raise broken(
            "GGUF file must be whole",
            f"{path.name}, one of several",
            "merge them (llama-gguf-split --merge), or give the folder with the original weights",
        )
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header()
    except OSError as error:
        raise broken("GGUF file must be readable", f"{path} ({error.strerror})") from None
    except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise broken("GGUF file must be whole", f"{path.name} ({error})") from None


class _Reader:
    """Reads one header from its start to its end; a file that is cut off raises `struct.error`."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, 0

    def header(self) -> Header:
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        version, tensors, fields = self._numbers("IQQ")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, not 2 or 3")
        metadata = {self._text(): self._value(self._kind()) for _ in range(fields)}
        found = [self._tensor() for _ in range(tensors)]
        alignment = int(metadata.get("general.alignment", ALIGNMENT))
        start = -(-self._at // alignment) * alignment
        return Header(self._path, metadata, {each[0]: self._stored(*each, start) for each in found})

    def _stored(
        self, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, offset: int, start: int
    ) -> Stored:
        block, size = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise ValueError(f"rows of {name} are no whole blocks")
        bytes_ = prod(shape) // block * size
        if start + offset + bytes_ > len(self._data):
            raise ValueError(f"{name} is cut off")
        return Stored(name, shape, kind, start + offset, bytes_)

    def _tensor(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = self._text()
        (dimensions,) = self._numbers("I")
        if not 1 <= dimensions <= 8:
            raise ValueError(f"{name[:60]!r} has {dimensions} dimensions")
        shape = self._numbers(f"{dimensions}Q")
        kind, offset = self._numbers("IQ")
        return name, tuple(reversed(shape)), GGMLQuantizationType(kind), offset

    def _numbers(self, pattern: str) -> tuple[Any, ...]:
        pattern = f"<{pattern}"
        found = struct.unpack_from(pattern, self._data, self._at)
        self._at += struct.calcsize(pattern)
        return found

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        end = self._at + length
        if end > len(self._data):
            raise ValueError("it is cut off")
        text = self._data[self._at : end].decode()
        self._at = end
        return text

    def _kind(self) -> GGUFValueType:
        return GGUFValueType(self._numbers("I")[0])

    def _value(self, kind: GGUFValueType) -> Any:  # noqa: ANN401  whatever the file says
        if kind == GGUFValueType.STRING:
            return self._text()
        if kind != GGUFValueType.ARRAY:
            return self._numbers(FORMATS[kind])[0]
        inner, (count,) = self._kind(), self._numbers("Q")
        if count > len(self._data) - self._at:
            raise ValueError("it is cut off")
        if inner in FORMATS:
            return list(self._numbers(f"{count}{FORMATS[inner]}"))
        return [self._value(inner) for _ in range(count)]
