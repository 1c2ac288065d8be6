"""How choices are written: in the legacy shape of completions, and in that of chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.chunk import Chunk, Scored
from server.protocol import logprobs
from server.protocol.logprobs import Offsets


class CompletionWriter:
    """Writes choices of `/v1/completions`; with `echo` a choice begins with its prompt.

    scored  whether log-probabilities were asked for
    as_ids  whether tokens are called `token_id:5`
    """

    kind = "text_completion"
    piece_kind = "text_completion"

    def __init__(self, *, scored: bool, as_ids: bool = False) -> None:
        self._scored = scored
        self._as_ids = as_ids
        self._offsets: dict[int, Offsets] = {}

    def whole(self, chunk: Chunk) -> dict[str, Any]:
        """Return one finished choice."""
        return {
            "index": chunk.index,
            "text": chunk.prompt_text + chunk.text,
            "logprobs": self._logprobs(chunk) if self._scored else None,
            "finish_reason": chunk.finish_reason,
            "stop_reason": chunk.stop_reason,
        }

    def opening(self, index: int) -> None:
        """Return None: benchmarks take the time to first token from the first chunk."""

    def piece(self, chunk: Chunk) -> dict[str, Any] | None:
        """Return one choice of a chunk, or None while its text is held back."""
        said = chunk.text or chunk.prompt_text or (self._scored and chunk.tokens)
        return self.whole(chunk) if said or chunk.finish_reason else None

    def _logprobs(self, chunk: Chunk) -> dict[str, Any]:
        """Return the tokens' scores; a first special token is not in the caller's text."""
        added = len(text_of(chunk.prompt_tokens)) - len(chunk.prompt_text)
        offsets = self._offsets.setdefault(chunk.index, Offsets(-max(added, 0)))
        return logprobs.legacy((*chunk.prompt_tokens, *chunk.tokens), offsets, self._as_ids)


class ChatWriter:
    """Writes choices of `/v1/chat/completions`.

    scored  whether log-probabilities were asked for
    as_ids  whether tokens are called `token_id:5`
    """

    kind = "chat.completion"
    piece_kind = "chat.completion.chunk"

    def __init__(self, *, scored: bool, as_ids: bool = False) -> None:
        self._scored = scored
        self._as_ids = as_ids

    def whole(self, chunk: Chunk) -> dict[str, Any]:
        """Return one finished choice."""
        message = {"role": "assistant", "content": chunk.text, "refusal": None}
        return {"index": chunk.index, "message": message, **self._end(chunk)}

    def opening(self, index: int) -> dict[str, Any]:
        """Return the role."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, chunk: Chunk) -> dict[str, Any] | None:
        """Return one choice of a chunk, or None while its text is held back."""
        said = chunk.text or (self._scored and chunk.tokens)
        if not said and chunk.finish_reason is None:
            return None
        delta = {"content": chunk.text} if said else {}
        return {"index": chunk.index, "delta": delta, **self._end(chunk)}

    def _end(self, chunk: Chunk) -> dict[str, Any]:
        scored = self._scored and (chunk.tokens or chunk.finish_reason)
        return {
            "logprobs": logprobs.chat(chunk.tokens, self._as_ids) if scored else None,
            "finish_reason": chunk.finish_reason,
            "stop_reason": chunk.stop_reason,
        }


def text_of(tokens: Sequence[Scored]) -> str:
    """Return the text of tokens: a character may be spread over several."""
    return b"".join(logprobs.data(token) for token in tokens).decode(errors="replace")
