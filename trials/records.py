"""The record of a run: one JSON line per item, which a killed run can be continued from.

A line is written whole, in one call, so what a crash can leave is a torn last line; it is dropped.
Each line says under which settings it was made, and lines of other settings are never mixed in.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from server.errors import EngineError, PlanError

SYNC_SECONDS = 1.0  # what a power cut may lose; a killed process loses nothing
BEGINNING = b'{"run":{"evenhand":'  # of every line, so that no file of another kind is cut


class Records:
    """The lines of a run, by item key.

    path    appended to, made if need be; `-` = standard output, which is not continued; None =
            nowhere
    run     the settings; compared as JSON with those of the lines that are there
    raises  PlanError  the file is not ours, was made with other settings, or is in use
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any]) -> None:
        self._run = json.loads(json.dumps({"evenhand": None, **run}))
        self.done: dict[str, dict[str, Any]] = {}
        self._synced = time.monotonic()
        self._file: BinaryIO
        self._durable = path is not None and str(path) != "-"
        if path is None or not self._durable:
            self._file = sys.stdout.buffer if path else Path(os.devnull).open("wb")  # noqa: SIM115
            return
        self._file = _open(path)
        try:
            self._take_up(path)
        except PlanError:
            self._file.close()
            raise

    def _take_up(self, path: Path) -> None:
        """Read the lines that are there, and cut the last one off if it is torn."""
        data = self._file.read()
        *lines, torn = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            record = _parsed(line, path, number)
            self._check_run(record["run"], path)
            self.done[record["key"]] = record
        if not torn:
            return
        if not (torn.startswith(BEGINNING) or BEGINNING.startswith(torn) or lines):
            raise _foreign(path, len(lines) + 1)
        self._file.truncate(len(data) - len(torn))
        self._file.seek(0, os.SEEK_END)

    def _check_run(self, run: Mapping[str, Any], path: Path) -> None:
        for name in {**run, **self._run}:
            before, now = run.get(name), self._run.get(name)
            if before != now:
                raise PlanError(
                    f"out file must be of a run with the same settings, got {path} of one with "
                    f"{name} {json.dumps(before)}, not {json.dumps(now)}; name another file"
                )

    def add(self, key: str, fields: Mapping[str, Any]) -> None:
        """Append one item's line; once this has returned, a killed process has not lost it.

        raises  EngineError  the disk is full, or nobody reads standard output
        """
        record = {"run": self._run, "key": key, **fields}
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            if self._durable and time.monotonic() > self._synced + SYNC_SECONDS:
                self._sync()
        except OSError as error:
            raise EngineError(
                f"out file must take another line, got a fault ({error.strerror}); make room and "
                "run the same command again"
            ) from None
        self.done[key] = record

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """See everything onto the disk, and let go of the file."""
        with suppress(OSError):  # `add` has told of it
            if self._durable:
                self._sync()
        with suppress(OSError):
            if self._file is not sys.stdout.buffer:
                self._file.close()


def _open(path: Path) -> BinaryIO:
    """Open a file for this process alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise PlanError(
            f"out file must be one that can be written, got {path} ({error.strerror}); name another"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            file.close()
            raise PlanError(
                f"out file must be written by one run at a time, got {path} which another "
                "process is writing; wait for it or name another"
            ) from None
        # a file system without locks: the user looks after that alone
    file.seek(0)
    return file


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        raise _foreign(path, number) from None
    ours = isinstance(record, dict) and isinstance(record.get("run"), dict)
    if not ours or not isinstance(record.get("key"), str):
        raise _foreign(path, number)
    return record  # type: ignore[no-any-return]


def _foreign(path: Path, number: int) -> PlanError:
    return PlanError(
        f"out file must be new, or of an earlier run of this command, got {path} with another "
        f"kind of line {number}; name another file"
    )
