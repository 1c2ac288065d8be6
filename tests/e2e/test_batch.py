"""A batch over a real socket and in real processes: killed, interrupted, completed all the same."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
from fastapi import FastAPI
from live import eventually, serving

from server.app import create_app
from server.engines.scripted import Scripted, slot_lover
from server.settings import Settings

SLOW_JUDGE = """
import time
from server import cli
from server.engines import registry
from server.engines.scripted import Scripted, slot_lover
from trials.cli import app

answer = slot_lover()

def script(prompt, sampling):
    time.sleep(0.005)
    return answer(prompt, sampling)

cli.load = registry.load = lambda settings: Scripted(script)
app()
"""
HEAD = {"content-type": "application/x-ndjson"}


def request(name: str, count: int = 2, width: int = 1) -> dict[str, Any]:
    candidates = [{"id": f"{index:0{width}d}", "text": f"{name} {index}"} for index in range(count)]
    return {"id": name, "question": "Q?", "candidates": candidates, "stages": [{"stage": "swap"}]}


def lines(*requests: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in requests)


@pytest.fixture(scope="module")
def engine() -> Scripted:
    return Scripted(slot_lover())


@pytest.fixture(scope="module")
def app(engine: Scripted) -> FastAPI:
    return create_app(Settings(), engine)


@pytest.fixture(scope="module")
def address(app: FastAPI) -> Iterator[str]:
    with serving(app) as found:
        yield found


@asynccontextmanager
async def posting(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a connection on which a batch of unknown length has been begun."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 26)
    fields = "host: x\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n"
    writer.write(f"POST /v1/judge/batch HTTP/1.1\r\n{fields}\r\n".encode())
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def reply(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Return the next line of a chunked answer."""
    while not (line := await reader.readline()).startswith(b"{"):
        assert line
    return json.loads(line)  # type: ignore[no-any-return]


async def test_a_reply_comes_before_the_last_request_is_sent(address: str) -> None:
    async with posting(address) as (reader, writer):
        for name in ("one", "two"):
            writer.write(chunk(lines(request(name))))
            assert (await reply(reader))["id"] == name
        writer.write(chunk(b"") + b"\r\n")
        assert (await reader.readline(), await reader.readline()) == (b"\r\n", b"0\r\n")


def test_a_client_that_reads_nothing_until_it_has_sent_all_is_served(address: str) -> None:
    """Requests and answers larger than all buffers between the two: neither waits for the other."""
    sent = [request(f"n{number}", count=25, width=256) for number in range(60)]
    body = lines(*({**each, "unknown": "x" * 150_000} for each in sent))
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.settimeout(20)
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            client.setsockopt(socket.SOL_SOCKET, buffer, 1 << 17)
        client.connect((host, int(port)))
        length = f"content-type: application/x-ndjson\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(f"POST /v1/judge/batch HTTP/1.1\r\nhost: x\r\n{length}".encode() + body)
        answer = client.makefile("rb")
        found = [json.loads(line)["id"] for line in answers(answer)]
    assert sorted(found) == sorted(each["id"] for each in sent)


def answers(answer: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a chunked answer to its end."""
    while (line := answer.readline()) != b"0\r\n":
        assert line
        if line.startswith(b"{"):
            yield line


async def test_a_client_that_leaves_stops_the_work(
    address: str, app: FastAPI, engine: Scripted
) -> None:
    begun = len(engine.works)
    async with posting(address) as (reader, writer):
        writer.write(chunk(lines(*(request(f"n{number}", 20) for number in range(1000)))))
        await reply(reader)
    await asyncio.to_thread(eventually, lambda: app.state.admission.running == 0, 5)
    await asyncio.to_thread(eventually, lambda: engine.running == 0, 5)  # its streams close after
    stopped = len(engine.works)
    assert stopped - begun < 1000 * 20
    async with httpx.AsyncClient(base_url=address) as http:
        again = await http.post("/v1/judge/batch", content=lines(request("a")), headers=HEAD)
    assert json.loads(again.text)["id"] == "a"
    assert len(engine.works) == stopped + 2


@contextmanager
def process(*arguments: str, **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """Start `evenhand` on a slow scripted judge; it is killed in the end."""
    command = [sys.executable, "-c", SLOW_JUDGE, *arguments]
    with subprocess.Popen(command, text=True, env={**os.environ}, **pipes) as running:
        try:
            yield running
        finally:
            running.kill()


def test_a_server_killed_in_mid_batch_completes_it_when_started_again() -> None:
    asked = {f"n{number}": request(f"n{number}") for number in range(60)}
    found: dict[str, Any] = {}
    for attempt in range(3):
        left = [each for name, each in asked.items() if name not in found]
        with process("serve", "--port", "0", stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            url = f"{address}/v1/judge/batch"
            try:
                with httpx.stream("POST", url, content=lines(*left), headers=HEAD) as answer:
                    for line in answer.iter_lines():
                        name = json.loads(line)["id"]
                        assert name not in found
                        found[name] = json.loads(line)
                        if attempt == 0 and len(found) == 10:
                            server.kill()
            except httpx.RemoteProtocolError:
                assert attempt == 0
        if attempt == 0:
            assert 10 <= len(found) < 60
        if len(found) == len(asked):
            break
    assert found.keys() == asked.keys()
    assert {each["status"] for each in found.values()} == {"order_conflict"}


def test_a_run_that_is_killed_and_interrupted_completes_every_item_once(tmp_path: Path) -> None:
    out, count = tmp_path / "verdicts.jsonl", 400
    command = ("judge", f"pocket:{count}", "--method", "swap", "--out", str(out))

    def written() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    def run_until(lines: int, blow: signal.Signals) -> tuple[int, str]:
        with process(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
            eventually(lambda: written() >= lines or running.poll() is not None)
            running.send_signal(blow)
            _, said = running.communicate(timeout=20)
            return running.returncode, said

    assert run_until(15, signal.SIGKILL)[0] == -signal.SIGKILL
    killed = out.read_bytes()
    assert 15 <= killed.count(b"\n") < count
    out.write_bytes(killed + killed[:100])  # what a kill in mid-write would have left
    code, said = run_until(killed.count(b"\n") + 15, signal.SIGINT)
    assert code == 130
    assert said.endswith("evenhand: stopped; run the same command again to go on\n")
    assert "Traceback" not in said
    assert out.read_bytes().startswith(killed)
    assert written() < count
    with process(*command, stdout=subprocess.PIPE) as running:
        card, _ = running.communicate(timeout=30)
        assert running.returncode == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(int(record["id"]) for record in found) == list(range(count))
    assert len({record["key"] for record in found}) == count
    assert "order_conflict" in card
