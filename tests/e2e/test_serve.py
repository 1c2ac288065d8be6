"""`evenhand serve` as a process: what it says, and how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from live import eventually

EVENHAND = [sys.executable, "-c", "from trials.cli import app; app()", "serve"]


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server; yield it with its address, which it says first."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [*EVENHAND, "--port", "0", "--threads", "1", *arguments]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline()
        finally:
            running.kill()


def test_the_log_says_who_reads(tiny: Path) -> None:
    command = [*EVENHAND, "--port", "0", "--threads", "1", "--model", str(tiny)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()  # it is up
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=20)
    assert "INFO executor 'cpu' reads\n" in said


def test_it_serves_then_drains_then_aborts(tiny: Path) -> None:
    """All in one process, since importing torch is what takes the time."""
    names = ("--served-model-name", "one", "--served-model-name", "two", "--api-key", "k")
    limits = {"EVENHAND_DRAIN_SECONDS": "2"}
    headers = {"authorization": "Bearer k"}
    with process("--model", str(tiny), *names, **limits) as (running, said):
        assert said.startswith("Evenhand serves one, two (tiny) on http://127.0.0.1:")
        assert running.stdout is not None
        assert running.stdout.readline() == "It offers attention, grammar, logprobs, text\n"
        address = said.split()[-1]
        assert httpx.get(f"{address}/v1/models").status_code == 401
        with ExitStack() as stack:
            short, long = (
                stack.enter_context(streaming(address, tokens, headers)) for tokens in (200, 4000)
            )
            assert '"text":' in next(short)
            assert '"text":' in next(long)
            running.send_signal(signal.SIGTERM)
            eventually(lambda: httpx.get(f"{address}/ready").status_code == 503, 5)
            assert httpx.get(f"{address}/health").status_code == 200
            body = {"prompt": "x"}
            refused = httpx.post(f"{address}/v1/completions", json=body, headers=headers)
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            *_, last, done = short
            assert '"finish_reason":"length"' in last
            assert done == "data: [DONE]"
            *_, failure, done = long
            assert '"code":"shutting_down"' in failure
            assert done == "data: [DONE]"
        assert running.wait(20) == 0


@contextmanager
def streaming(address: str, tokens: int, headers: dict[str, str]) -> Iterator[Iterator[str]]:
    """Yield the lines of a stream of so many tokens."""
    body = {"prompt": "Rome", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    url = f"{address}/v1/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as stream:
        yield (line for line in stream.iter_lines() if line)
