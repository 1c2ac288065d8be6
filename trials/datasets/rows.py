"""Files of records (JSON, JSON Lines, CSV; gzip too) and where each stands, for messages."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import PlanError

MOST_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file.

    where  `file:line`, for messages
    line   counted from 1
    """

    fields: Mapping[str, Any]
    where: str
    line: int

    def text(self, name: str, *, empty: bool = True) -> str:
        """Return a field that must be text (PlanError)."""
        value = self.fields.get(name)
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self.fault(name, "be text" if empty else "be text that is not empty")
        if any("\ud800" <= letter <= "\udfff" for letter in value):  # UTF-8 cannot write it
            raise self.fault(name, "be text without half characters")
        return value

    def optional(self, name: str) -> str | None:
        """Return a field that may be left out, null or empty."""
        return None if self.fields.get(name) in (None, "") else self.text(name)

    def name(self, *names: str) -> str:
        """Return the fields, numbers or text, that identify the record, joined with `/`."""
        for name in names:
            value = self.fields.get(name)
            if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
                raise self.fault(name, "be text or a whole number")
        return "/".join(str(self.fields[name]) for name in names)

    def fault(self, name: str, rule: str) -> PlanError:
        """Return what is wrong with a field."""
        got = shown(self.fields[name]) if name in self.fields else "none"
        return PlanError(f"{name} of {self.where} must {rule}, got {got}; correct the record")


def shown(value: object) -> str:
    """Return a value for a message, cut to `MOST_SHOWN` characters."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def read(path: Path) -> list[Row]:
    """Read the records of a file: CSV by its name, else a JSON array, an object, or JSON Lines.

    raises  PlanError  the file cannot be read, is empty, or a record is broken
    """
    text = _text(path)
    if path.name.removesuffix(".gz").lower().endswith(".csv"):
        rows = list(_csv(text, path))
    elif text.lstrip().startswith("["):
        rows = list(_array(text, path))
    else:
        rows = list(_lines(text, path))
    if not rows:
        raise PlanError(f"data must have a record, got none in {path}; give a file that has")
    return rows


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise PlanError(f"data must be a file, got {path} ({reason}); give one") from None
    except UnicodeDecodeError as error:
        raise PlanError(
            f"data must be text in UTF-8, got {path} with byte {error.start} of another kind; "
            "convert it to JSON Lines"
        ) from None


def _lines(text: str, path: Path) -> Iterator[Row]:
    """Yield JSON Lines; a file that is one object over several lines is one record."""
    lines = text.split("\n")  # not splitlines: a text may hold U+2028
    if lines[0].strip() == "{":
        yield _row(text, path, 1)
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _row(line, path, number)


def _row(text: str, path: Path, line: int) -> Row:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, line, error) from None
    return _record(value, path, line)


def _array(text: str, path: Path) -> Iterator[Row]:
    """Yield the elements of an array, each with the line it begins on."""
    decoder, line, index, counted = json.JSONDecoder(), 1, text.index("[") + 1, 0
    while True:
        while index < len(text) and (text[index].isspace() or text[index] == ","):
            index += 1
        line, counted = line + text.count("\n", counted, index), index
        if text[index : index + 1] == "]":
            break
        try:
            value, index = decoder.raw_decode(text, index)
        except (ValueError, RecursionError) as error:
            raise _broken(path, line, error) from None
        yield _record(value, path, line)
    if text[index + 1 :].strip():
        raise _broken(path, line, ValueError("more after the end of the array"))


def _csv(text: str, path: Path) -> Iterator[Row]:
    """Yield the records below a line of names; a quoted value may span lines."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(len(text) + 1)
    begun = 2
    try:
        for fields in reader:
            where = f"{path.name}:{begun}"
            if None in fields or None in fields.values():
                raise PlanError(
                    f"{where} must have {len(reader.fieldnames or ())} values, as its first line, "
                    "got another number; quote values that contain commas"
                )
            yield Row(dict(fields), where, begun)
            begun = reader.line_num + 1
    except csv.Error as error:
        raise PlanError(f"{path.name}:{begun} must be CSV, got {error}; correct it") from None
    finally:
        csv.field_size_limit(limit)


def _record(value: object, path: Path, line: int) -> Row:
    where = f"{path.name}:{line}"
    if not isinstance(value, dict):
        raise PlanError(f"{where} must be a JSON object, got {shown(value)}; write {{...}}")
    return Row(value, where, line)


def _broken(path: Path, line: int, error: Exception) -> PlanError:
    said = error.msg.lower() if isinstance(error, json.JSONDecodeError) else str(error)
    return PlanError(f"{path.name}:{line} must be JSON, got a fault ({said}); correct the record")
