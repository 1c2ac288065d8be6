"""`WS /v1/streams`: the frames that a client sends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.errors import PlanError
from server.prompt import ChatPrompt
from server.protocol.chat import MessageBody
from server.protocol.common import Body
from server.protocol.generation import Generation

UNUSED = (
    "documents", "n", "response_format", "deterministic", "stream", "stream_options",
    "return_tokens_as_token_ids", "prompt_cache_key",
)  # fmt: skip


class OpenFrame(Generation):
    """The first frame: as a chat's body; the source stands behind the last message's text."""

    type: Literal["open"]
    messages: Annotated[list[MessageBody], Field(min_length=1)]

    def refuse(self) -> None:
        """Raise PlanError for what a stream cannot do."""
        super().refuse()
        for name in UNUSED:
            if getattr(self, name) is not None:
                raise PlanError(f"{name} cannot go with a stream, got it; leave it out", param=name)

    @property
    def prompt(self) -> ChatPrompt:
        """Return what is said before the source."""
        return ChatPrompt(tuple(each.message for each in self.messages))


class SourceAppend(Body):
    """More of the source."""

    type: Literal["source.append"]
    text: str


class SourceEnd(Body):
    """The source is whole."""

    type: Literal["source.end"]


class Cancel(Body):
    """Stop, and forget the stream."""

    type: Literal["cancel"]
