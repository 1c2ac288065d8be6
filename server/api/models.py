"""`GET /v1/models`: what is served, what it can do, and why not the rest."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from server.api.common import Service, resolve, service
from server.protocol.replies import fingerprint

router = APIRouter()


@router.get("/v1/models")
async def models(service: Annotated[Service, Depends(service)]) -> dict[str, Any]:
    """List the served names."""
    cards = [_card(service, name) for name in service.settings.names]
    return {"object": "list", "data": cards}


@router.get("/v1/models/{model:path}")
async def model(model: str, service: Annotated[Service, Depends(service)]) -> dict[str, Any]:
    """Show one served name, with or without stages."""
    resolve(service, model, None)
    return _card(service, model)


def _card(service: Service, name: str) -> dict[str, Any]:
    info = service.engine.info
    return {
        "id": name,
        "object": "model",
        "created": info.created,
        "owned_by": "evenhand",
        "root": info.root,
        "fingerprint": fingerprint(info),
        "dtype": info.dtype,
        "device": info.device,
        "max_model_len": info.max_model_len,
        "abilities": sorted(service.engine.offers),
        "refusals": dict(info.refusals),
        "executor": {"name": info.executor, "refusals": dict(info.executors)},
        "kernels": dict(info.kernels),
        "chat": sorted(info.chat),
        "judge_template": info.template,
    }
