"""A model served as people serve it, in a process of its own, and how it is asked."""

from __future__ import annotations

import json
import mmap
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

EVENHAND = [sys.executable, "-c", "from trials.cli import app; app()", "serve"]
# 0: what is asked again in another order is computed again
OPTIONS = ["--port", "0", "--log-level", "warning", "--reuse-bytes", "0"]


@dataclass(frozen=True)
class Served:
    """A model that answers over HTTP."""

    path: Path
    client: httpx.Client

    @property
    def unreadable(self) -> str | None:
        """Return why a reading stage is refused, or None."""
        [card] = self.client.get("/v1/models").json()["data"]
        return None if "attention" in card["abilities"] else str(card["refusals"]["attention"])

    @property
    def fills_in(self) -> bool:
        """Return whether the vocabulary has a token for what is in the middle, from its bytes."""
        file = self.path / "tokenizer.json" if self.path.is_dir() else self.path
        with file.open("rb") as opened:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            return any(content.find(token) >= 0 for token in (b"fim_middle", b"fim-middle"))

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Return what is answered."""
        answer = self.client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def chat(self, question: str, **body: Any) -> dict[str, Any]:
        """Return the only choice of a greedy answer."""
        reply = self.post("chat/completions", **chat(question), **body)
        [choice] = reply["choices"]
        return choice  # type: ignore[no-any-return]

    @contextmanager
    def stream(self, question: str, **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Yield the choices of a stream's chunks; it must end as streams do."""
        asked = {**chat(question), **body, "stream": True}
        with self.client.stream("POST", "/v1/chat/completions", json=asked) as stream:
            assert stream.status_code == 200

            def choices() -> Iterator[dict[str, Any]]:
                last = ""
                for line in filter(None, stream.iter_lines()):
                    if line.startswith("data: {"):
                        yield from json.loads(line.removeprefix("data: "))["choices"]
                    last = line
                assert last == "data: [DONE]"

            yield choices()


def chat(question: str) -> dict[str, Any]:
    """Return the beginning of a body: a question, greedy."""
    return {"messages": [{"role": "user", "content": question}], "temperature": 0}


@contextmanager
def serving_model(path: Path, more: str, log: Path) -> Iterator[Served]:
    """Serve a model with more options, and end the server at last; `log` is what it says."""
    command = [*EVENHAND, *OPTIONS, "--model", str(path), *shlex.split(more)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as running,
    ):
        try:
            assert running.stdout is not None
            said = running.stdout.readline()
            assert said.startswith("Evenhand serves "), said + log.read_text()
            with httpx.Client(base_url=said.split()[-1], timeout=600) as client:
                yield Served(path, client)
        finally:
            running.kill()
