"""Bodies that real judge and evaluation clients sent, replayed."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

RECORDED = Path(__file__).parents[3] / "shared" / "clients" / "requests.jsonl"
CANNOT = ("tool_choice",)  # what this server says it cannot do yet


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded requests are not here")
def test_every_recorded_body_is_answered_or_refused_for_what_cannot_be_done(address: str) -> None:
    lines = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    assert len(lines) >= 20
    for number, line in enumerate(lines):
        body = dict(line["body"])
        body["max_tokens"] = min(body.get("max_tokens", 8), 8)
        reply = httpx.post(address + line["path"], json=body, timeout=60)
        asked = [field for field in CANNOT if field in body]
        assert reply.status_code == (400 if asked else 200), (number, line["client"], reply.text)
        if asked:
            error = reply.json()["error"]
            assert error["param"] == asked[0]
            assert " must be " in error["message"]
            continue
        (choice,) = reply.json()["choices"]
        assert reply.json()["model"] == body["model"]
        assert isinstance(choice["message"]["content"], str)
        assert (choice["logprobs"] is not None) == bool(body.get("logprobs"))
