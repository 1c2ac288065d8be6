"""`/version` and `/openapi.json`: what runs here, for who may use it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request

router = APIRouter()


@router.get("/version")
async def software() -> dict[str, str]:
    """Show the software's version."""
    return {"version": version("evenhand")}


@router.get("/openapi.json", include_in_schema=False)
async def described(request: Request) -> dict[str, Any]:
    """Describe all routes."""
    app: FastAPI = request.app
    return app.openapi()
