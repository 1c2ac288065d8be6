"""`POST /v1/judge`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from server.api.common import Service, read, resolve, service, until_disconnect
from server.judge.judging import Judging
from server.judge.wire import JudgeBody

router = APIRouter()


@router.post("/v1/judge")
async def judge(request: Request, service: Annotated[Service, Depends(service)]) -> JSONResponse:
    """Say which of the candidates answers the question best."""
    body = await read(request, JudgeBody)
    asked = judging(service, body)
    await asked.check(service.engine)
    with service.admission.take():
        return JSONResponse(await until_disconnect(request, asked.run(service.engine)))


def judging(service: Service, body: JudgeBody) -> Judging:
    """Check a request as this service serves it; nothing has run when this raises PlanError."""
    name, stages = resolve(service, body.model, body.stages)
    return Judging.of(body, service.engine, name, stages, service.calibration)
