"""What a benchmark found, kept in a file, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")


class Kept:
    """What was found, by key; as JSON has it.

    file  JSON Lines, appended to, or None; a last line that is torn is dropped
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        data = file.read_bytes() if file is not None and file.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if file is not None and whole != data:
            file.write_bytes(whole)
        rows = map(json.loads, whole.splitlines())
        self._known = {row["key"]: row["found"] for row in rows}

    def of(self, key: str, make: Callable[[], Found]) -> Found:
        """Return what is known, or find it."""
        if key not in self._known:
            self._known[key] = make()
            if self._file is not None:
                with self._file.open("a") as file:
                    file.write(json.dumps({"key": key, "found": self._known[key]}) + "\n")
        found: Found = self._known[key]
        return found
