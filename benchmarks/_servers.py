"""Other people's servers beside ours: how each is started, what each is sent, how each ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
START_SECONDS = 900.0  # vLLM takes minutes on a busy machine
IDLE_SECONDS = 2.0
PAGE = 256  # tokens: of transformers' cache
MOST_TOKENS = 1024  # of one forward of transformers
NAME = "model"  # what clients call it, where a server takes a name
QUESTION = "Write the words of all texts again, in the same order."


@dataclass(frozen=True)
class Setup:
    """What all servers have in common.

    model    folder, or a GGUF file where only ours is asked
    context  tokens that a request may come to
    """

    model: Path
    dtype: str
    threads: int
    context: int
    clients: int


@dataclass(frozen=True)
class Server:
    """One kind of server.

    command  without its address
    address  options that set host and port, with `{port}` in them
    """

    name: str
    command: tuple[str, ...]
    address: str
    ready: str = "/health"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """One way to ask one server: a row of the table.

    fields     of the body, beside model, messages and length
    documents  whether the texts are sent as a set, in a field of their own
    """

    name: str
    server: str
    fields: Mapping[str, Any]
    documents: bool = False

    def body(self, model: str, texts: Sequence[str], tokens: int) -> dict[str, Any]:
        """Return the request for so many new tokens, greedy and streamed."""
        content = QUESTION if self.documents else "\n\n".join([*texts, QUESTION])
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "stream": True,
            "temperature": 0,
            "max_tokens": tokens,
            **self.fields,
        }
        if self.documents:
            body["documents"] = list(texts)
        if self.server == "transformers":  # it knows no `ignore_eos`
            body["generation_config"] = json.dumps(
                {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
            )
        if self.server == "transformers-cb":  # without an end token in it there is none
            body["generation_config"] = json.dumps({"max_new_tokens": tokens, "do_sample": False})
        return body


EXACT = {"ignore_eos": True, "stream_options": {"include_usage": True}}
PINE = {**EXACT, "stages": [{"stage": "pine"}]}
WAYS = (
    Way("evenhand", "evenhand", {**EXACT, "stages": []}),
    Way("PINE", "evenhand", {**PINE, "deterministic": False}, documents=True),
    Way("PINE, deterministic", "evenhand", PINE, documents=True),
    Way("transformers", "transformers", {}),
    Way("transformers, batching", "transformers-cb", {}),
    Way("vLLM", "vllm", EXACT),
)


def evenhand(setup: Setup, more: str) -> Server:
    """Return ours; `more` are options of `evenhand serve`."""
    options = {
        "--model": setup.model,
        "--dtype": setup.dtype,
        "--threads": setup.threads,
        "--served-model-name": NAME,
        "--queue-limit": max(2 * setup.clients, 16),
    }
    command = (sys.executable, "-c", "from trials.cli import app; app()", "serve")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return Server(
        "evenhand",
        (*command, *_flat(options), *shlex.split(more)),
        "--host 127.0.0.1 --port {port}",
        "/ready",
        {"PYTHONPATH": path},
    )


def transformers(setup: Setup, batching: bool) -> Server:
    """Return `transformers serve`, with the model loaded before the first request.

    batching  whether requests share forwards; by default they wait for each other. Its cache would
              take nine tenths of the memory: it gets pages for all clients
    """
    command = (sys.executable, "-c", "from transformers.cli.transformers import main; main()")
    options: dict[str, object] = {"--device": "cpu", "--dtype": setup.dtype}
    more: tuple[str, ...] = ()
    if batching:
        options["--cb-num-blocks"] = setup.clients * -(-setup.context // PAGE)
        options["--cb-max-batch-tokens"] = MOST_TOKENS
        more = ("--continuous-batching",)
    return Server(
        "transformers-cb" if batching else "transformers",
        (*command, "serve", str(setup.model), *_flat(options), *more),
        "--host 127.0.0.1 --port {port}",
    )


def vllm(setup: Setup, python: Path) -> Server:
    """Return vLLM's server for the CPU, in the environment of an interpreter.

    Without a compiler on the machine it can only run eagerly. Its own way of binding threads leaves
    one thread on two cores; and its OpenMP must be loaded before Python is.
    """
    options = {
        "--model": setup.model,
        "--served-model-name": NAME,
        "--dtype": setup.dtype,
        "--max-model-len": setup.context,
        "--max-num-seqs": setup.clients,
        "--generation-config": "vllm",
    }
    library = python.parent.parent / "lib" / "libiomp5.so"
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        **({"LD_PRELOAD": str(library)} if library.exists() else {}),
    }
    module = ("-m", "vllm.entrypoints.openai.api_server", "--enforce-eager")
    return Server(
        "vllm",
        (str(python), *module, *_flat(options)),
        "--host 127.0.0.1 --port {port}",
        environment=environment,
    )


@contextmanager
def running(server: Server, threads: int, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server with so many threads; yield its address, once it is ready, and its process.

    raises  SystemExit  if it ends or is silent; with the end of what it said
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
        **server.environment,
    }
    command = [*server.command, *server.address.format(port=port).split()]
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it may have children: all end with it
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}{server.ready}", server.name, log)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], url: str, name: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise SystemExit(f"{name} must start, got no answer; it said last:\n{tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and its children: first ask, then make them."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, what)
        except ProcessLookupError:
            break
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            continue


def idle_share(process: psutil.Process) -> float:
    """Return how many cores a server without a request uses: it would take them from the others."""
    before = _cpu_seconds(process)
    time.sleep(IDLE_SECONDS)
    return (_cpu_seconds(process) - before) / IDLE_SECONDS


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            total += sum(each.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def _flat(options: Mapping[str, object]) -> list[str]:
    return [str(part) for pair in options.items() for part in pair]
