"""`POST /v1/judge`."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from server.api.common import Service, read, resolve, service, until_disconnect
from server.api.generate import fingerprint
from server.engines.base import Engine
from server.pipeline import compose, plan
from server.protocol.judge import JudgeBody
from server.protocol.judgement import judgement
from server.protocol.replies import Head

router = APIRouter()


@router.post("/v1/judge")
async def judge(request: Request, service: Annotated[Service, Depends(service)]) -> JSONResponse:
    """Say which of the candidates answers the question best."""
    body = await read(request, JudgeBody)
    body.refuse()
    engine = service.engine
    name, stages = resolve(service, body.model, body.stages)
    job = body.job(name, f"judge-{secrets.token_hex(12)}")
    planned = plan(default_stages(engine) if stages is None else stages, engine=engine, job=job)
    body.check_calls(planned, job)
    with service.admission.take():
        reply = await until_disconnect(request, compose(planned, engine)(job))
    assert job.ballot is not None, "a judge's job has a ballot"
    head = Head(job.id, int(time.time()), name, fingerprint(engine.info))
    return JSONResponse(judgement(head, job.ballot, planned, reply, body.warnings))


def default_stages(engine: Engine) -> list[dict[str, Any]]:
    """Return what makes a verdict independent of the order at the least cost."""
    return [{"stage": "pine" if "attention" in engine.offers else "swap"}]
