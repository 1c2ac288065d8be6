"""What `/infill` answers: llama.cpp's fields, told of what was done here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from server.chunk import Chunk
from server.job import Sampling
from server.protocol.infill import InfillBody


class InfillWriter:
    """Writes the reply of one request, whole or in pieces, and takes the time.

    prompt_ms is the time up to the first token, whatever it was spent on; predicted_ms the rest.
    """

    def __init__(
        self,
        body: InfillBody,
        sampling: Sampling,
        model: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._body = body
        self._sampling = sampling
        self._model = model
        self._clock = clock
        self._begun = clock()
        self._first: float | None = None
        self._said: list[str] = []

    @property
    def text(self) -> str:
        """Return all that was said."""
        return "".join(self._said)

    def met(self, text: str) -> None:
        """Take note of what is said next, and of when the first came."""
        if self._first is None:
            self._first = self._clock()
        self._said.append(text)

    def piece(self, text: str, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object of a stream that goes on."""
        return {
            "index": 0,
            "content": text,
            "tokens": [],
            "stop": False,
            "id_slot": self._slot,
            "tokens_predicted": usage["completion_tokens"],
            "tokens_evaluated": usage["prompt_tokens"],
        }

    def last(
        self,
        content: str,
        chunk: Chunk,
        usage: Mapping[str, Any],
        *,
        truncated: bool,
        evenhand: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the reply, or the last object of a stream.

        content    what has not been sent yet
        chunk      the last one that came; without a reason where the lines ended the text
        truncated  whether the context had no room for all that was sent
        """
        word = chunk.stop_reason if isinstance(chunk.stop_reason, str) else ""
        ended = "eos" if chunk.finish_reason == "stop" else "limit"
        said = {
            **self.piece(content, usage),
            "stop": True,
            "model": self._model,
            "tokens_cached": _cached(usage),
            "generation_settings": self._settings(),
            "has_new_line": "\n" in self.text,
            "truncated": truncated,
            "stop_type": "word" if word else ended,
            "stopping_word": word,
            "timings": self._timings(usage),
            "evenhand": evenhand,
        }
        if self._body.response_fields is None:
            return said
        chosen = {path: _at(said, path) for path in self._body.response_fields}
        kept: dict[str, Any] = {path: each for path, each in chosen.items() if each is not None}
        if "warnings" in evenhand:  # what has no effect is told, asked for or not
            kept["evenhand"] = {"warnings": evenhand["warnings"], **kept.get("evenhand", {})}
        return kept

    @property
    def _slot(self) -> int:
        return 0 if self._body.id_slot is None else self._body.id_slot

    def _settings(self) -> dict[str, Any]:
        sampling = self._sampling
        return {
            "n_predict": -1 if sampling.max_tokens is None else sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "seed": -1 if sampling.seed is None else sampling.seed,
            "stop": list(sampling.stop),
            "ignore_eos": sampling.ignore_eos,
            "n_indent": self._body.n_indent or 0,
            "t_max_predict_ms": self._body.t_max_predict_ms or 0,
            "stream": bool(self._body.stream),
        }

    def _timings(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        now = self._clock()
        first = now if self._first is None else self._first
        read = usage["prompt_tokens"] - _cached(usage)
        return {
            "cache_n": _cached(usage),
            **_rate("prompt", read, first - self._begun),
            **_rate("predicted", usage["completion_tokens"], now - first),
        }


def _rate(name: str, count: int, seconds: float) -> dict[str, Any]:
    """Return how long some tokens took, in llama.cpp's four numbers."""
    return {
        f"{name}_n": count,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_token_ms": seconds * 1000 / count if count else 0.0,
        f"{name}_per_second": count / seconds if seconds > 0 else 0.0,
    }


def _cached(usage: Mapping[str, Any]) -> int:
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def _at(said: Mapping[str, object], path: str) -> object:
    """Return the value at a path as `timings/prompt_n`, or None."""
    value: object = said
    for step in path.split("/"):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
