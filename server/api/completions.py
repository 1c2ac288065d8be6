"""`POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from server.api.common import Service, read, service
from server.api.generate import answer
from server.protocol.completions import CompletionBody
from server.protocol.writers import CompletionWriter

router = APIRouter()


@router.post("/v1/completions")
async def completions(request: Request, service: Annotated[Service, Depends(service)]) -> Response:
    """Continue text, or ids, or fill in between."""
    body = await read(request, CompletionBody)
    writer = CompletionWriter(
        scored=body.logprobs is not None,
        as_ids=bool(body.return_tokens_as_token_ids),
    )
    return await answer(request, service, body, writer)
