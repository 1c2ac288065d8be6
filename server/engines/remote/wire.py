"""What we read of another server's answers; the rest of them is ignored.

One shape for both endpoints, whole or in a stream: servers differ in what they leave out.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.chunk import Scored, Usage

Logprob = Annotated[float, Field(le=1e-3)]  # above zero by rounding at most, and never NaN
NO_ID = -1  # these servers name tokens by their text alone


class Wire(BaseModel):
    """Something another server sent."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Alternative(Wire):
    """A token with its natural-log probability."""

    token: str
    logprob: Logprob
    data: list[int] | None = Field(None, alias="bytes")

    def scored(self, top: tuple[Scored, ...] = ()) -> Scored:
        """Return it as ours."""
        data = self.token.encode() if self.data is None else bytes(self.data)
        return Scored(NO_ID, self.token, self.logprob, data, top)


class Token(Alternative):
    """A token of the answer, with what it might have been."""

    top_logprobs: list[Alternative] | None = None


class ChatLogprobs(Wire):
    """The tokens of a chat's answer."""

    content: list[Token] | None

    def scored(self) -> tuple[Scored, ...]:
        """Return the tokens as ours."""
        return tuple(
            token.scored(tuple(each.scored() for each in token.top_logprobs or ()))
            for token in self.content or ()
        )


class LegacyLogprobs(Wire):
    """The tokens of a completion, and of its prompt with `echo`: lists of one length."""

    tokens: list[str]
    token_logprobs: list[Logprob | None]
    top_logprobs: list[dict[str, Logprob] | None] | None = None
    text_offset: list[int] | None = None

    def scored(self) -> tuple[Scored, ...]:
        """Return the tokens as ours; ValueError for lists of different lengths."""
        tops = self.top_logprobs or [None] * len(self.tokens)
        return tuple(
            Scored(NO_ID, token, logprob, token.encode(), _ranked(top or {}))
            for token, logprob, top in zip(self.tokens, self.token_logprobs, tops, strict=True)
        )


def _ranked(top: dict[str, float]) -> tuple[Scored, ...]:
    """Return alternatives, the most likely first."""
    ranked = sorted(top.items(), key=lambda each: -each[1])
    return tuple(Scored(NO_ID, token, logprob, token.encode()) for token, logprob in ranked)


class Said(Wire):
    """A message, or a piece of one."""

    content: str | None = None
    refusal: str | None = None


class Choice(Wire):
    """One choice, or a piece of one."""

    index: int = 0
    text: str | None = None
    message: Said | None = None
    delta: Said | None = None
    logprobs: ChatLogprobs | LegacyLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: Any = None

    @property
    def said(self) -> str:
        """Return the text; a refusal is what the model says instead."""
        said = self.message or self.delta or Said()
        return self.text or said.content or said.refusal or ""

    @property
    def tokens(self) -> tuple[Scored, ...]:
        """Return the tokens, if they were reported."""
        return () if self.logprobs is None else self.logprobs.scored()

    def offset(self, token: int) -> int:
        """Return where a token begins in the text, characters; one that is not there ends it."""
        offsets = getattr(self.logprobs, "text_offset", None) or ()
        return offsets[token] if token < len(offsets) else len(self.said)


class CountDetails(Wire):
    """How a prompt's tokens were read."""

    cached_tokens: int | None = None


class Counts(Wire):
    """Tokens counted by the server."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: CountDetails | None = None

    @property
    def usage(self) -> Usage:
        """Return it as ours."""
        details = self.prompt_tokens_details or CountDetails()
        return Usage(
            self.prompt_tokens or 0, self.completion_tokens or 0, details.cached_tokens or 0
        )


class Answer(Wire):
    """A whole answer, or one event of a stream."""

    choices: list[Choice] = Field(default_factory=list)
    usage: Counts | None = None


class Card(Wire):
    """A model that the server lists; servers call its context by different names."""

    id: str
    owned_by: Any = None
    root: Any = None
    fingerprint: Any = None  # Evenhand, as the next two
    taken: Any = Field(None, alias="chat")
    judge_template: Any = None
    max_model_len: Any = None  # vLLM, Evenhand
    context_length: Any = None
    context_window: Any = None
    max_context_length: Any = None

    @property
    def chat(self) -> tuple[object, ...]:
        """Return what it says that chats with it may have."""
        return tuple(self.taken) if isinstance(self.taken, list) else ()

    @property
    def template(self) -> str | None:
        """Return the judge's template that it says the model was trained on."""
        return self.judge_template if isinstance(self.judge_template, str) else None

    @property
    def context(self) -> int | None:
        """Return how many tokens fit, or None."""
        named = (
            self.max_model_len,
            self.context_length,
            self.context_window,
            self.max_context_length,
        )
        return next((each for each in named if isinstance(each, int) and each > 0), None)


class Models(Wire):
    """What `/models` lists."""

    data: list[Card]
