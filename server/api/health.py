"""`/health` and `/ready`: open to all, for those who look after the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from server.api.common import Service, service
from server.errors import EngineError

router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(service: Annotated[Service, Depends(service)]) -> dict[str, str]:
    """Answer 200 while the process and the model's worker live."""
    if not service.engine.alive:
        raise EngineError(
            "model's worker must be alive, got a dead one; restart the server",
            status=503,
            code="engine_dead",
        )
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(service: Annotated[Service, Depends(service)]) -> dict[str, str]:
    """Answer 200 while new requests are welcome."""
    if service.admission.draining:
        raise service.admission.stopping()
    await health(service)
    return {"status": "ready"}
