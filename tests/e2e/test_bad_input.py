"""What a careless or hostile client sends: one sentence, 4xx, at once; and the server goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

COMPLETIONS, CHAT, JUDGE = "/v1/completions", "/v1/chat/completions", "/v1/judge"
MIB = 2**20


def text(**body: Any) -> bytes:
    return json.dumps({"prompt": "x", **body}).encode()


CASES: dict[str, tuple[str, bytes, int, str]] = {
    "no JSON": (COMPLETIONS, b"{", 400, "must be JSON"),
    "no UTF-8": (CHAT, b'{"messages": "\xff"}', 400, "must be JSON in UTF-8"),
    "no object": (CHAT, b"[1]", 400, "must be a JSON object"),
    "nested": (COMPLETIONS, b"[" * 10_000, 400, "recursion limit"),
    "half a character": (COMPLETIONS, b'{"prompt": "\\ud83d"}', 400, "must be JSON"),
    "NaN": (COMPLETIONS, b'{"prompt": "x", "top_p": NaN}', 400, "must be JSON"),
    "huge number": (COMPLETIONS, text(seed=10**4000), 400, "seed must be"),
    "unknown model": (COMPLETIONS, text(model="/etc/passwd"), 404, "model must be one of"),
    "no documents": (COMPLETIONS, text(stages=[{"stage": "pine"}]), 400, "stage 'pine' must have"),
    "unknown stage": (COMPLETIONS, text(stages=[{"stage": "pin"}]), 400, "did you mean 'pine'"),
    "unknown stage field": (COMPLETIONS, text(stages=[{"stage": "pine", "x": 1}]), 400, "'x'"),
    "wrong order": (
        COMPLETIONS,
        text(stages=[{"stage": "pine"}, {"stage": "swap"}], documents=["a"]),
        400,
        "stage 'swap' must come before 'pine'",
    ),
    "10,000 documents": (COMPLETIONS, text(documents=["d"] * 10_000), 400, "at most 1000"),
    "10,000 parts": (
        CHAT,
        json.dumps(
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "d", "group": "g"}] * 10_000,
                    }
                ]
            }
        ).encode(),
        400,
        "at most 1000",
    ),
    "empty document": (COMPLETIONS, text(documents=[" "], model="tiny+pine"), 400, "document"),
    "too long": (COMPLETIONS, text(prompt="Rome " * 100_000), 400, "maximum context length"),
    "foreign ids": (COMPLETIONS, text(prompt=[10**6]), 400, "token ids must be"),
    "image": (
        CHAT,
        b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        400,
        "must be of type 'text'",
    ),
    "no candidates": (JUDGE, b'{"question": "q", "candidates": []}', 400, "candidates"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_sentence(address: str, case: str) -> None:
    path, body, status, said = CASES[case]
    headers = {"content-type": "application/json"}
    reply = httpx.post(address + path, content=body, headers=headers, timeout=10)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert said in error["message"]
    assert "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"
    good = httpx.post(address + COMPLETIONS, json={"prompt": "x", "max_tokens": 1}, timeout=10)
    assert good.status_code == 200


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with 100 MB of JSON."""
    path = tmp_path_factory.mktemp("large") / "body.json"
    path.write_bytes(b'{"prompt":"' + b"a" * 100_000_000 + b'"}')
    return path


def pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(65536):
            yield piece


def highest_memory() -> int:
    """Return the most memory this process, with the server in it, has used, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_gets_its_answer_and_takes_no_memory(
    address: str, large: Path, declared: bool
) -> None:
    headers = {"content-type": "application/json"}
    if declared:
        headers["content-length"] = str(large.stat().st_size)
    before = highest_memory()
    reply = httpx.post(address + CHAT, content=pieces(large), headers=headers, timeout=60)
    assert reply.status_code == 413
    assert "must be at most 16777216 bytes" in reply.json()["error"]["message"]
    assert highest_memory() - before < 64 * MIB


@pytest.mark.parametrize("path", [COMPLETIONS, "/nothing"])
def test_a_client_that_sends_all_before_it_reads_gets_its_answer(
    address: str, large: Path, path: str
) -> None:
    """`http.client` fails where the server closes or resets before it has everything."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST", path, large.read_bytes(), {"content-type": "application/json"})
    reply = connection.getresponse()
    assert reply.status in (404, 413)
    assert b'"error"' in reply.read()
    connection.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
@pytest.mark.parametrize("expect", [[], ["-H", "Expect:"]])
@pytest.mark.parametrize("path", [COMPLETIONS, "/nothing"])
def test_curl_gets_its_answer_too(address: str, large: Path, expect: list[str], path: str) -> None:
    command = ["curl", "-s", "--data-binary", f"@{large}", "-H", "content-type: application/json"]
    done = subprocess.run([*command, *expect, address + path], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert json.loads(done.stdout)["error"]["code"] in ("request_too_large", "not_found")
