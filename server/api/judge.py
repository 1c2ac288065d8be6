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
    name, stages = resolve(service, body.model, body.stages)
    judging = Judging.of(body, service.engine, name, stages, service.calibration)
    with service.admission.take():
        return JSONResponse(await until_disconnect(request, judging.run(service.engine)))
