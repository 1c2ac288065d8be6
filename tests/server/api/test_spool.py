"""A body as it comes and as it is handed out: the same lines, however it was cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.spool import Spool
from server.errors import EngineError, PlanError

MOST, LINE = 10_000, 50


def spool(**limits: int) -> Spool:
    return Spool(**{"in_memory": 64, "most": MOST, "most_line": LINE, **limits})


def messages(body: bytes, cuts: list[int]) -> Iterator[dict[str, Any]]:
    """Yield a body in pieces, then the client's leaving."""
    ends = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for index in range(len(ends) - 1):
        piece = body[ends[index] : ends[index + 1]]
        yield {"type": "http.request", "body": piece, "more_body": index < len(ends) - 2}
    yield {"type": "http.disconnect"}


@given(
    lines=st.lists(st.binary(max_size=70).map(lambda line: line.replace(b"\n", b"")), max_size=12),
    cuts=st.lists(st.integers(0, 10**6), max_size=8),
    ended=st.booleans(),
)
async def test_lines_come_out_as_they_went_in(
    lines: list[bytes], cuts: list[int], ended: bool
) -> None:
    body = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    coming = messages(body, cuts)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return next(coming)

    made = spool()
    filling = asyncio.create_task(made.fill(receive))
    found = [line async for line in made.lines()]
    await filling
    made.close()
    expected = body.split(b"\n")
    assert found == [line[: LINE + 1] for line in (expected if expected[-1] else expected[:-1])]


async def test_a_line_is_handed_out_before_the_body_has_ended() -> None:
    pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    made = spool()
    filling = asyncio.create_task(made.fill(pieces.get))
    lines = made.lines()
    pieces.put_nowait({"type": "http.request", "body": b"one\ntw", "more_body": True})
    async with asyncio.timeout(5):
        assert await anext(lines) == b"one"
        pieces.put_nowait({"type": "http.request", "body": b"o", "more_body": False})
        assert await anext(lines) == b"two"
        assert await anext(lines, None) is None
        pieces.put_nowait({"type": "http.disconnect"})
        await filling
    made.close()


async def test_what_is_too_large_ends_with_a_refusal_and_is_not_kept() -> None:
    coming = messages(b"a\n" * MOST, list(range(0, 2 * MOST, 100)))

    async def receive() -> dict[str, Any]:
        return next(coming)

    made = spool()
    await made.fill(receive)
    found: list[bytes] = []
    with pytest.raises(PlanError, match=f"batch must be at most {MOST} bytes") as caught:
        async for line in made.lines():
            found += [line]
    assert caught.value.status == 413
    assert found == [b"a"] * (MOST // 2)
    made._file.seek(0, 2)
    assert made._file.tell() <= MOST + 100
    made.close()


async def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = spool()

    def full(piece: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(made._file, "write", full)
    coming = messages(b"a\nb\n", [])

    async def receive() -> dict[str, Any]:
        return next(coming)

    await made.fill(receive)
    with pytest.raises(EngineError, match="no room"):
        await anext(made.lines())
    made.close()
