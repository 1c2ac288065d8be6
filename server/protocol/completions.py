"""`/v1/completions`: the body, and the legacy shape of its answers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainValidator

from server.errors import PlanError
from server.job import Job, Sampling
from server.prompt import FillOrder, Part, Prompt, TextPrompt, TokenPrompt
from server.protocol.common import shown
from server.protocol.documents import inserted
from server.protocol.generation import MOST_ALTERNATIVES, Generation
from server.protocol.replies import Head

DEFAULT_MAX_TOKENS = 16

Ids = list[int]


def _prompts(value: object) -> list[str] | list[Ids]:
    """Read the four shapes of a prompt as a list of texts or a list of lists of ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(text, str) for text in value):
            return value
        if _are_ids(value):
            return [value]
        if all(isinstance(ids, list) and ids and _are_ids(ids) for ids in value):
            return value
    raise ValueError(
        "prompt must be a string, a list of strings, a list of token ids (0 or more) or a list of "
        f"such lists, none of them empty, got {shown(value)}; send one of these"
    )


def _are_ids(value: list[Any]) -> bool:
    """Return whether all are token ids (JSON's true and false are not)."""
    return all(type(each) is int and 0 <= each < 2**31 for each in value)


def _off(value: object) -> object:
    return None if value is False else value


class CompletionBody(Generation):
    """The body of `/v1/completions`."""

    prefix: ClassVar[str] = "cmpl"

    prompt: Annotated[list[str] | list[Ids], PlainValidator(_prompts)]
    suffix: str | None = None
    fim: FillOrder | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: Annotated[
        Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None, BeforeValidator(_off)
    ] = None

    def refuse(self) -> None:
        """Raise PlanError for what this server cannot do yet."""
        super().refuse()
        if self.best_of not in (None, 1, self.choices):
            raise PlanError(
                f"best_of must be 1 or n, got {self.best_of}; leave it out", param="best_of"
            )

    def prompts(self) -> tuple[Prompt, ...]:
        """Return the prompts, with the documents in every prompt.

        raises  PlanError  if documents or a suffix meet token ids
        """
        suffix = self.suffix or None
        documents = [document.part for document in self.documents or ()]
        made: list[Prompt] = []
        for prompt in self.prompt:
            if isinstance(prompt, str):
                parts = (Part(prompt),)
                made.append(
                    TextPrompt(inserted(parts, documents) if documents else parts, suffix, self.fim)
                )
                continue
            for field, given in (("documents", documents), ("suffix", suffix)):
                if given:
                    raise PlanError(
                        f"prompt must be text where {field} is given, got token ids; "
                        "send the prompt as a string",
                        param=field,
                    )
            made.append(TokenPrompt(tuple(prompt)))
        return tuple(made)

    def job(self, head: Head) -> Job:
        """Return what was asked as a job."""
        return Job(head.model, self.asked(), self.prompts(), id=head.id)

    def asked(self) -> Sampling:
        """Return how tokens are chosen."""
        return self.sampling(
            max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            logprobs=self.logprobs,
            echo=bool(self.echo),
        )
