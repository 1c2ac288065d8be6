"""The store of running slot biases: how much a judge likes the first slot, whoever stands there.

Kept per model, template, form, labels and reading, since even its sign depends on them. One row a
key in an SQLite file, so several threads and processes may observe at once, and a process may end
at any moment: what `observe` has returned from is kept. (A power cut may take the last ones.)
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType

from server.errors import EngineError

PATIENCE = 30.0  # seconds to wait for another process that is writing

# One statement is one transaction. To the right of "=" stand the old row's values: Welford's
# update, squares' = squares + (x - mean)(x - mean'), with mean' written out.
OBSERVE = """
INSERT INTO slot_bias VALUES (?, ?, ?, ?, ?, 1, ?, 0.0)
ON CONFLICT DO UPDATE SET
    count = count + 1,
    mean = mean + (excluded.mean - mean) / (count + 1),
    squares = squares + (excluded.mean - mean) * (excluded.mean - mean) * count / (count + 1.0)
"""
TABLE = """
CREATE TABLE IF NOT EXISTS slot_bias (
    model TEXT, template TEXT, form TEXT, labels TEXT, reading TEXT,
    count INTEGER NOT NULL, mean REAL NOT NULL, squares REAL NOT NULL,
    PRIMARY KEY (model, template, form, labels, reading)
) WITHOUT ROWID
"""
ALL = "SELECT model, template, form, labels, reading, count, mean, squares FROM slot_bias"
ONE = f"{ALL} WHERE (model, template, form, labels, reading) = (?, ?, ?, ?, ?)"

Row = tuple[str, str, str, str, str, int, float, float]


@dataclass(frozen=True, slots=True)
class BiasKey:
    """What a slot bias is a property of.

    model     its fingerprint: a bias is one of the weights, not of a name
    template  the template's name, or a hash of an inline one
    """

    model: str
    template: str
    form: str
    labels: str
    reading: str


@dataclass(frozen=True, slots=True)
class Bias:
    """A running mean of slot biases.

    mean            nats, positive = towards the first slot
    standard_error  of the mean, nats; None for a single observation
    """

    mean: float
    count: int
    standard_error: float | None


class Calibration:
    """Slot biases by key; for any number of threads and processes at once.

    file    kept here across restarts, made with its folder if need be; None = in memory only
    raises  EngineError  if the file is no such store, or cannot be written; so may every method
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = Lock()
        with self._explained():
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                ":memory:" if file is None else file,
                timeout=PATIENCE,
                isolation_level=None,  # autocommit
                check_same_thread=False,  # the lock sees to it
            )
        try:
            self._prepare()
        except EngineError:
            self.close()
            raise

    def _prepare(self) -> None:
        """Make the table, and meet every fault of the file now rather than in a request."""
        with self._explained():
            self._write_ahead()
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(TABLE)
            self._connection.execute(
                "PRAGMA user_version = 1"
            )  # a write, even to a table made before
            self._connection.execute("COMMIT")
        self.all()

    def _write_ahead(self) -> None:
        """Switch a new file to its write-ahead log, which needs no disk sync an observation."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # two that switch a new file at once do not wait for each other: SQLite refuses one
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def observe(self, key: BiasKey, bias: float) -> None:
        """Take one more slot bias into the mean; it is kept once this has returned.

        bias    nats
        raises  EngineError  if it is not finite
        """
        if not math.isfinite(bias):
            raise EngineError(
                f"slot bias must be finite, got {bias}; ask for labels that the model may answer"
            )
        self._run(OBSERVE, (*astuple(key), float(bias)))

    def of(self, key: BiasKey) -> Bias | None:
        """Return what is known of one key, or None."""
        return next((_bias(row) for row in self._run(ONE, astuple(key))), None)

    def all(self) -> Mapping[BiasKey, Bias]:
        """Return what is known, by key."""
        return MappingProxyType({BiasKey(*row[:5]): _bias(row) for row in self._run(ALL)})

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def _run(self, statement: str, values: Sequence[str | float] = ()) -> list[Row]:
        with self._lock, self._explained():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in one sentence what is wrong with the file."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise EngineError(
                "calibration file must be a writable store of slot biases, got "
                f"{str(self._file)!r} ({error}); move it away or name another"
            ) from error


def _bias(row: Row) -> Bias:
    count, mean, squares = row[5:]
    error = math.sqrt(squares / (count - 1) / count) if count > 1 else None
    return Bias(mean, count, error)
