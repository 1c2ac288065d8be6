"""Fill in the middle as editors ask for it: what all ask alike, and `/v1/fim/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from server.chunk import LEFT_OUT, Chunk
from server.errors import PlanError
from server.job import Job
from server.prompt import File, FillOrder, FillPrompt
from server.protocol.common import Body, Items
from server.protocol.generation import Generation
from server.protocol.replies import Head
from server.protocol.writers import ChatWriter


class Extra(BaseModel):
    """A part of another file, as editors send it (with a time, which says nothing here)."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    text: str
    filename: str | None = None


class Filling(Body):
    """What both endpoints have besides: how a prompt is written, and where one line is enough."""

    fim: FillOrder | None = None
    filename: str | None = None
    repo_name: str | None = None
    input_extra: Items[Extra] | None = None
    single_line: bool | None = None

    def filling(self, prefix: str, suffix: str, begun: str, room: int) -> FillPrompt:
        """Return the prompt of an answer that is begun, with room for some new tokens."""
        files = tuple(File(each.filename or "", each.text) for each in self.input_extra or ())
        names = self.filename or "", self.repo_name or ""
        return FillPrompt(prefix, suffix, begun, files, *names, self.fim, room)

    def ended(self, stop: tuple[str, ...]) -> tuple[str, ...]:
        """Return the strings that end the answer, some of which the caller has named."""
        return (*stop, "\n") if self.single_line else stop


class FimBody(Generation, Filling):
    """The body of `/v1/fim/completions`, as Mistral's clients and Continue send it."""

    prefix: ClassVar[str] = "fim"

    prompt: str
    suffix: str | None = None
    random_seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    metadata: dict[str, Any] | None = None  # the caller's own

    def refuse(self) -> None:
        """Raise PlanError for what cannot be done."""
        super().refuse()
        if self.documents:
            raise PlanError(
                f"documents cannot go with a text to fill in, got {len(self.documents)}; send "
                "other files in input_extra",
                param="documents",
            )

    def job(self, head: Head) -> Job:
        """Return what was asked as a job; the likeliest tokens, if nothing else is asked for."""
        changes: dict[str, Any] = {"max_tokens": self.max_tokens, "stop": self.ended(self.stop)}
        if self.temperature is None:
            changes["temperature"] = 0.0
        if self.random_seed is not None:
            changes["seed"] = self.random_seed
        prompt = self.filling(self.prompt, self.suffix or "", "", self.max_tokens or 0)
        return Job(head.model, self.sampling(**changes), (prompt,), id=head.id)


class FimWriter(ChatWriter):
    """Writes choices of `/v1/fim/completions`: chat's, with text in every piece of a stream."""

    def piece(self, chunk: Chunk) -> dict[str, Any] | None:
        """Return one choice of a chunk: clients add up what is in `content`, come what may."""
        said = super().piece(chunk)
        return None if said is None else {**said, "delta": {"content": chunk.text}}


def left_out(notes: Mapping[str, Any]) -> list[str]:
    """Return a warning of what a prompt had no room for, if anything was left out."""
    found = notes.get(LEFT_OUT)
    if not isinstance(found, Mapping):
        return []
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in found.items())
    return [f"the context had no room for {counts}, which were left out"]
