"""A server whose judge is a script, and what no order of the candidates may change."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from server.app import create_app
from server.engines.base import Ability, Engine
from server.engines.scripted import Answer, Script, Scripted
from server.judge.calibration import Calibration
from server.judge.judging import Judging
from server.judge.wire import JudgeBody
from server.protocol.common import parse
from server.settings import Settings

Candidates = Sequence[str | dict[str, Any]]

ALL: tuple[Ability, ...] = ("text", "logprobs", "attention")
quick = hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def opinionated(text: str, slot: int) -> float:
    """Return a logit that depends on an answer's text and on its slot, unevenly."""
    return math.sin(sum(map(ord, text)) * 1.7) * 2 + math.cos(slot * 2.3 + len(text)) * 0.8


@asynccontextmanager
async def serving(
    script: Script | Sequence[Answer], abilities: tuple[Ability, ...] = ALL, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a server whose model is a script."""
    app = create_app(Settings(**options), Scripted(script, abilities))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def judged(client: httpx.AsyncClient, candidates: Candidates, **body: Any) -> dict[str, Any]:
    answer = await client.post(
        "/v1/judge", json={"question": "Q?", "candidates": candidates, **body}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def invariant(reply: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return what no order of the candidates may change; ids stand for texts."""
    return {
        **{
            name: None if reply[name] is None else texts[reply[name]]
            for name in ("winner", "preferred")
        },
        "probability": reply["probability"],
        "calibrated": reply["calibrated"],
        "abstained": reply.get("abstained"),
        "status": reply["status"],
        "margin": reply["margin"],
        "slot_bias": reply["slot_bias"],
        "rung": reply["rung"],
        "unit": reply["unit"],
        "ranked_by": reply["ranked_by"],
        "ranking": [
            (texts[each["id"]], each["score"], each.get("low")) for each in reply["ranking"]
        ],
        "calls": [
            (
                [texts[name] for name in call["order"]],
                call["letters"],
                call["logprobs"],
                call["values"],
                call["label"],
                call["text"],
                [sample["text"] for sample in call.get("samples", ())],
            )
            for call in reply["calls"]
        ],
    }


async def asked(
    engine: Engine, candidates: Candidates, store: Calibration | None = None, **body: Any
) -> dict[str, Any]:
    """Return the reply without a server around it, which is quicker."""
    fields = {"question": "Q?", "candidates": candidates, **body}
    parsed = parse(json.dumps(fields).encode(), JudgeBody, strict=True)
    return await Judging.of(parsed, engine, "m", parsed.stages, store).run(engine)
