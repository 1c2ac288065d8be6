"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from server.api.common import Service, read, service
from server.api.generate import answer
from server.protocol.chat import ChatBody
from server.protocol.writers import ChatWriter

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(request: Request, service: Annotated[Service, Depends(service)]) -> Response:
    """Answer the last message of a conversation."""
    body = await read(request, ChatBody)
    writer = ChatWriter(scored=bool(body.logprobs), as_ids=bool(body.return_tokens_as_token_ids))
    return await answer(request, service, body, writer)
