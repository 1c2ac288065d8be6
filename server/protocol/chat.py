"""`/v1/chat/completions`: the body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from server.errors import PlanError
from server.job import Job, Sampling
from server.prompt import ChatPrompt, Message, Part, Prompt
from server.protocol.common import Items, shown
from server.protocol.documents import inserted_in_chat, joined
from server.protocol.generation import MOST_ALTERNATIVES, Generation
from server.protocol.replies import Head


def _content(value: object) -> tuple[Part, ...]:
    """Read a message's content: a string, a list of text parts, or null."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (Part(value),)
    if not isinstance(value, list):
        raise ValueError(
            f"content must be a string or a list of parts, got {shown(value)}; send one of these"
        )
    return joined([_part(part) for part in value])


def _part(value: object) -> Part:
    """Read `{"type": "text", "text": ..., "group"?: ...}`."""
    kind = value.get("type") if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping) or kind != "text":
        raise ValueError(
            f"content part must be of type 'text', got {shown(kind)}; "
            "remove it, since this server reads text alone"
        )
    text, group = value.get("text"), value.get("group")
    if not isinstance(text, str):
        raise ValueError(f"content part must have a text, got {shown(text)}; add the field 'text'")
    if group is not None and not isinstance(group, str):
        raise ValueError(f"group must be a string, got {shown(group)}; write it in quotes")
    if group is not None and not text:
        raise ValueError(
            "content part with a group must have text, got ''; leave the empty document out"
        )
    return Part(text, group)


class MessageBody(BaseModel):
    """One message; fields that are not known go to the model's template."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Annotated[tuple[Part, ...], PlainValidator(_content)] = ()

    @property
    def message(self) -> Message:
        """Return the message for a job."""
        extra = {name: value for name, value in (self.model_extra or {}).items() if value}
        return Message(self.role, self.content, extra)


class ChatBody(Generation):
    """The body of `/v1/chat/completions`.

    continue_final_message  the answer goes on where the last message ends, as in vLLM
    add_generation_prompt   None = unless the last message is continued
    """

    prefix: ClassVar[str] = "chatcmpl"

    messages: Annotated[Items[MessageBody], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    tools: Items[dict[str, Any]] | None = None
    tool_choice: Any = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    def refuse(self) -> None:
        """Raise PlanError for what this server cannot do yet."""
        super().refuse()
        if self.tool_choice not in (None, "auto", "none"):
            raise PlanError(
                f"tool_choice must be 'auto' or 'none', got {shown(self.tool_choice)}; "
                "leave it out, since this server cannot force a tool",
                param="tool_choice",
            )
        if self.top_logprobs and not self.logprobs:
            raise PlanError(
                "top_logprobs must come with logprobs: true, got it without; "
                "set logprobs or leave top_logprobs out",
                param="top_logprobs",
            )
        if self.add_generation_prompt is not None:
            self._check_ending(self.add_generation_prompt)

    def _check_ending(self, opened: bool) -> None:
        """Refuse an answer that both goes on and begins, or does neither (PlanError)."""
        if opened == bool(self.continue_final_message):
            both = "both true" if opened else "neither"
            raise PlanError(
                "add_generation_prompt must be the opposite of continue_final_message, got "
                f"{both}; leave add_generation_prompt out",
                param="add_generation_prompt",
            )

    def prompts(self) -> tuple[Prompt, ...]:
        """Return the one prompt, with the documents in the last user message."""
        documents = [document.part for document in self.documents or ()]
        messages = inserted_in_chat([message.message for message in self.messages], documents)
        continued = self.continue_final_message is True
        return (ChatPrompt(messages, tuple(self.tools or ()), continued),)

    def job(self, head: Head) -> Job:
        """Return what was asked as a job."""
        return Job(head.model, self.asked(), self.prompts(), id=head.id)

    def asked(self) -> Sampling:
        """Return how tokens are chosen."""
        return self.sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
