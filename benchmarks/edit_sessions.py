"""Typing into an edit session over its socket: from an edit to its acknowledgement.

A server of its own process on the embedded model. Somebody types a letter every tenth of a second,
and asks for a completion after every fifth; the others type without asking.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there pine.py would hide the package `pine`

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from benchmarks._harness import Row, arguments, show
from benchmarks._servers import Setup, evenhand, running
from pocket import WEIGHTS, data

PATH = "/v1/edit-sessions"
TOKENS = 16  # of a completion


@dataclass(frozen=True)
class Case:
    """One way to type.

    size     of the text, characters
    every    edits between two questions; 0 = none
    writers  at once, each in a session of his own
    """

    name: str
    size: int
    every: int
    writers: int = 1


CASES = (
    Case("2,000 characters, completions", 2_000, 5),
    Case("2,000 characters, completions, 4 writers", 2_000, 5, writers=4),
    Case("1,000,000 characters", 1_000_000, 0),
)


def text_of(size: int) -> str:
    """Return so much text of the embedded model's world."""
    people = data.people(Random(1), 64)
    sentences = " ".join(map(data.describe, people)) + "\n"
    return (sentences * (size // len(sentences) + 1))[:size]


async def type_along(address: str, case: Case, count: int, rate: float) -> tuple[list[float], int]:
    """Type so many letters; return the seconds to each acknowledgement, and the answers begun."""
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        made = (await http.post(PATH, json={"text": text_of(case.size)})).json()
        sent: dict[int, float] = {}
        waits: list[float] = []
        url = f"{address.replace('http', 'ws')}{PATH}/{made['id']}/ws"
        async with connect(url, max_size=None) as socket:
            await socket.recv()
            hearing = asyncio.create_task(hear(socket, sent, waits, count))
            await keys(socket, case, count, rate, sent)
            deltas = await asyncio.wait_for(hearing, 60)
        await http.delete(f"{PATH}/{made['id']}")
    return waits, deltas


async def keys(
    socket: ClientConnection, case: Case, count: int, rate: float, sent: dict[int, float]
) -> None:
    """Send edits in the middle of the text, at a steady rate, and questions behind some."""
    begun, place = time.perf_counter(), case.size // 2
    for version in range(count):
        await asyncio.sleep(max(begun + version / rate - time.perf_counter(), 0))
        change = {"offset": place + version, "text": "x"}
        edit = {"base_version": version, "version": version + 1, "changes": [change]}
        sent[version + 1] = time.perf_counter()
        await socket.send(json.dumps({"type": "edit", **edit}))
        if case.every and version % case.every == case.every - 1:
            ask = {"id": f"c{version}", "offset": place + version + 1, "max_tokens": TOKENS}
            await socket.send(json.dumps({"type": "complete", **ask}))


async def hear(
    socket: ClientConnection, sent: dict[int, float], waits: list[float], count: int
) -> int:
    """Note when each edit is acknowledged; return how many pieces of answers came."""
    deltas = 0
    while len(waits) < count:
        frame: dict[str, Any] = json.loads(await socket.recv())
        if frame["type"] == "ack":
            waits.append(time.perf_counter() - sent[frame["version"]])
        elif frame["type"] in ("error", "resync"):
            raise SystemExit(f"server must take every edit, got {frame}")
        deltas += frame["type"] == "delta"
    return deltas


async def measure(address: str, case: Case, count: int, rate: float) -> list[Row]:
    """Return a case's figures, over the edits of all its writers."""
    ways = [type_along(address, case, count, rate) for _ in range(case.writers)]
    found = await asyncio.gather(*ways)
    waits = sorted(wait for each, _ in found for wait in each)
    late = statistics.quantiles(waits, n=20)[-1]
    rows = [
        Row(case.name, "edit to acknowledgement, median", statistics.median(waits) * 1e3, "ms"),
        Row(case.name, "edit to acknowledgement, p95", late * 1e3, "ms"),
    ]
    if case.every:
        rows.append(Row(case.name, "pieces of answers", sum(each for _, each in found), ""))
    return rows


def more(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--rate", type=float, default=10.0, help="edits a second of each writer")
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="folder  [default: pocket]")


def main() -> None:
    """Measure every case on one server."""
    asked = arguments(__doc__ or "", more)
    count = 50 if asked.quick else 300
    setup = Setup(asked.model, "auto", threads=1, context=2048, clients=8)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with running(evenhand(setup, ""), 1, log) as (address, _):
            rows = [
                row
                for case in CASES
                for row in asyncio.run(measure(address, case, count, asked.rate))
            ]
    show("Typing into an edit session", rows, asked.json)


if __name__ == "__main__":
    main()
