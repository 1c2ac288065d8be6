"""The fields that both generating endpoints share, and what becomes of them: `Sampling`."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from server.errors import PlanError
from server.job import Sampling
from server.protocol.answer_format import grammar
from server.protocol.common import Body, Items, shown
from server.protocol.documents import Document

MOST_STOPS = 64
MOST_BIASES = 4096  # tokens: a whole vocabulary would be gone through at every step
MOST_CHOICES = 128  # n
MOST_ALTERNATIVES = 20  # logprobs, top_logprobs


def few_biases(value: Sized) -> None:
    """Refuse a bias of more tokens than a step may look at (ValueError)."""
    if len(value) > MOST_BIASES:
        raise ValueError(
            f"logit_bias must name at most {MOST_BIASES} tokens, got {len(value)}; name fewer, or "
            "ask for a `response_format`"
        )


def _biases(value: object) -> object:
    """Read `{"50256": -100}`: JSON has no integer keys."""
    if not isinstance(value, dict):
        return value
    few_biases(value)
    biases = {}
    for key, bias in value.items():
        if not (isinstance(key, str) and key.isdecimal() and key.isascii() and len(key) < 10):
            raise ValueError(
                f"logit_bias must have token ids as keys, got {shown(key)}; "
                "look the id up with the model's tokenizer"
            )
        biases[int(key)] = bias
    return biases


def stops(value: object) -> tuple[str, ...]:
    """Read a stop string, a list of them, or null; an empty one means "off"."""
    given = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(given, list) or not all(isinstance(stop, str) for stop in given):
        raise ValueError(
            f"stop must be a string or a list of strings, got {shown(value)}; send one of these"
        )
    if len(given) > MOST_STOPS:
        raise ValueError(
            f"stop must hold at most {MOST_STOPS} strings, got {len(given)}; send fewer"
        )
    return tuple(stop for stop in given if stop)


Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=0.01, le=10)]  # a logit divided by less may be no number


class StreamOptions(BaseModel):
    """What a stream reports besides its text."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Generation(Body):
    """What completions and chat have in common; `null` always means the default."""

    model: str | None = None
    stages: list[Any] | None = None
    documents: Items[Document] | None = None
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stop: Annotated[tuple[str, ...], PlainValidator(stops)] = ()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: Penalty | None = None
    logit_bias: Annotated[dict[int, Bias], BeforeValidator(_biases)] | None = None
    ignore_eos: bool | None = None
    deterministic: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_tokens_as_token_ids: bool | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None
    prompt_cache_key: str | None = None

    @property
    def choices(self) -> int:
        """Return the number of answers per prompt."""
        return self.n or 1

    def refuse(self) -> None:
        """Raise PlanError for what this server cannot do."""
        grammar(self.response_format)
        self._refuse_least()
        if self.stream_options is not None and not self.stream:
            raise PlanError(
                "stream_options must come with stream: true, got it without; "
                "set stream or leave stream_options out",
                param="stream_options",
            )

    def _refuse_least(self) -> None:
        """Raise PlanError for a least length that cannot be had."""
        least, most = self.min_tokens or 0, self.max_tokens
        if most is not None and least > most:
            raise PlanError(
                f"min_tokens must be at most max_tokens, got {least} and {most}; correct one",
                param="min_tokens",
            )
        if least and self.response_format is not None:
            raise PlanError(
                "min_tokens cannot go with response_format, which says where an answer ends, got "
                "both; leave one of them out",
                param="min_tokens",
            )

    def sampling(self, **changes: Any) -> Sampling:
        """Return how tokens are chosen, with what the endpoint itself decides in `changes`."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "min_p": self.min_p,
            "min_tokens": self.min_tokens,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": self.logit_bias,
            "ignore_eos": self.ignore_eos,
            "grammar": grammar(self.response_format),
        }
        asked = {name: value for name, value in given.items() if value is not None}
        same = {"n": self.choices, "stop": self.stop, "seed": self.seed}
        return Sampling(**{**same, **asked, **changes})
