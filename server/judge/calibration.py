"""The store of what is known of a judge: its habits as running means, and how right it was.

A habit is its slot bias (how much it likes the first slot, whoever stands there), or the log-odds
with which it calls two identical answers a tie. Kept per model, template, form, labels and reading,
since even the sign depends on them. One row a key in a table a habit, in an SQLite file, so several
threads and processes may observe at once, and a process may end at any moment: what `observe` has
returned from is kept. (A power cut may take the last ones.)
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal

from server.errors import EngineError

ENOUGH = 20  # observations from which a mean is used, where nobody says otherwise
PATIENCE = 30.0  # seconds to wait for another process that is writing

# One statement is one transaction. To the right of "=" stand the old row's values: Welford's
# update, squares' = squares + (x - mean)(x - mean'), with mean' written out.
OBSERVE = """
INSERT INTO {habit} VALUES (?, ?, ?, ?, ?, 1, ?, 0.0)
ON CONFLICT DO UPDATE SET
    count = count + 1,
    mean = mean + (excluded.mean - mean) / (count + 1),
    squares = squares + (excluded.mean - mean) * (excluded.mean - mean) * count / (count + 1.0)
"""
TABLE = """
CREATE TABLE IF NOT EXISTS {habit} (
    model TEXT, template TEXT, form TEXT, labels TEXT, reading TEXT,
    count INTEGER NOT NULL, mean REAL NOT NULL, squares REAL NOT NULL,
    PRIMARY KEY (model, template, form, labels, reading)
) WITHOUT ROWID
"""
ALL = "SELECT model, template, form, labels, reading, count, mean, squares FROM {habit}"
ONE = f"{ALL} WHERE (model, template, form, labels, reading) = (?, ?, ?, ?, ?)"
FITS = "CREATE TABLE IF NOT EXISTS fits (key TEXT PRIMARY KEY, fit TEXT NOT NULL) WITHOUT ROWID"
KEEP = "INSERT INTO fits VALUES (?, ?) ON CONFLICT DO UPDATE SET fit = excluded.fit"
FIT = "SELECT fit FROM fits WHERE key = ?"
VERSION = "PRAGMA user_version = 2"  # 1 had no table but slot_bias, which stays as it is

Habit = Literal["slot_bias", "tie_odds"]
HABITS: tuple[Habit, ...] = ("slot_bias", "tie_odds")
Row = tuple[str, str, str, str, str, int, float, float]


@dataclass(frozen=True, slots=True)
class BiasKey:
    """What a habit is a property of.

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
    """A running mean of what was observed of a habit.

    mean            nats; a slot bias is positive towards the first slot
    standard_error  of the mean, nats; None for a single observation
    """

    mean: float
    count: int
    standard_error: float | None


class Calibration:
    """Habits by key, and fits; for any number of threads and processes at once.

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
        """Make the tables, and meet every fault of the file now rather than in a request."""
        with self._explained():
            self._write_ahead()
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("BEGIN IMMEDIATE")
            for habit in HABITS:
                self._connection.execute(TABLE.format(habit=habit))
            self._connection.execute(FITS)
            self._connection.execute(VERSION)  # a write, even to tables made before
            self._connection.execute("COMMIT")
        for habit in HABITS:
            self.all(habit)
        self.fit("")

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

    def observe(self, key: BiasKey, seen: float, habit: Habit = "slot_bias") -> None:
        """Take one more observation into a habit's mean; it is kept once this has returned.

        seen    nats
        raises  EngineError  if it is not finite
        """
        if not math.isfinite(seen):
            raise EngineError(
                f"{habit.replace('_', ' ')} must be finite, got {seen}; ask for labels that the "
                "model may answer"
            )
        self._run(OBSERVE.format(habit=habit), (*astuple(key), float(seen)))

    def of(self, key: BiasKey, habit: Habit = "slot_bias") -> Bias | None:
        """Return what is known of one key, or None."""
        found = self._run(ONE.format(habit=habit), astuple(key))
        return next((_bias(row) for row in found), None)

    def all(self, habit: Habit = "slot_bias") -> Mapping[BiasKey, Bias]:
        """Return what is known, by key."""
        found = self._run(ALL.format(habit=habit))
        return MappingProxyType({BiasKey(*row[:5]): _bias(row) for row in found})

    def keep(self, key: str, fit: Mapping[str, Any]) -> None:
        """Keep a fit of what a judge said to what was right, instead of one kept before."""
        self._run(KEEP, (key, json.dumps(fit)))

    def fit(self, key: str) -> dict[str, Any] | None:
        """Return the fit that is kept under a key, or None."""
        return next((json.loads(fit) for (fit,) in self._run(FIT, (key,))), None)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def _run(self, statement: str, values: Sequence[str | float] = ()) -> list[Any]:
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
