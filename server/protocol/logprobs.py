"""Log-probabilities of tokens in the two shapes that OpenAI's clients read."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from typing import Any

from server.chunk import Scored

LOWEST = -9999.0  # JSON has no minus infinity


def clamped(logprob: float) -> float:
    """Return a natural-log probability that JSON can carry."""
    return max(logprob, LOWEST) if math.isfinite(logprob) else LOWEST


def name(token: Scored, as_ids: bool) -> str:
    """Return how a token is called: its text, or `token_id:5` where ids must stay apart."""
    return f"token_id:{token.id}" if as_ids else token.text


def data(token: Scored) -> bytes:
    """Return a token's bytes."""
    return token.data or token.text.encode()


class Offsets:
    """Where each token begins in the text of one choice, in characters.

    A token that begins inside a character begins where the character does.

    start  offset of the first token; one before the text counts as 0
    """

    def __init__(self, start: int = 0) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = start

    def next(self, token: Scored) -> int:
        """Return the token's offset, and move past it."""
        offset = max(self._seen, 0)
        self._seen += len(self._decoder.decode(data(token)))
        return offset


def legacy(tokens: Sequence[Scored], offsets: Offsets, as_ids: bool = False) -> dict[str, Any]:
    """Return `{tokens, token_logprobs, top_logprobs, text_offset}`, four lists of one length.

    The first token of a prompt has no probability: its two entries are null.
    """
    return {
        "tokens": [name(token, as_ids) for token in tokens],
        "token_logprobs": [
            None if token.logprob is None else clamped(token.logprob) for token in tokens
        ],
        "top_logprobs": [_alternatives(token, as_ids) for token in tokens],
        "text_offset": [offsets.next(token) for token in tokens],
    }


def _alternatives(token: Scored, as_ids: bool) -> dict[str, float] | None:
    """Return the most likely tokens and the chosen one, whose entry is its own to the last bit."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for other in token.top:
        if other.logprob is not None:
            found.setdefault(name(other, as_ids), clamped(other.logprob))
    found[name(token, as_ids)] = clamped(token.logprob)
    return found


def chat(tokens: Sequence[Scored], as_ids: bool = False) -> dict[str, Any]:
    """Return `{content: [{token, logprob, bytes, top_logprobs}], refusal}`."""
    entries = [
        {**_entry(token, as_ids), "top_logprobs": [_entry(other, as_ids) for other in token.top]}
        for token in tokens
    ]
    return {"content": entries, "refusal": None}


def _entry(token: Scored, as_ids: bool) -> dict[str, Any]:
    logprob = LOWEST if token.logprob is None else clamped(token.logprob)
    return {"token": name(token, as_ids), "logprob": logprob, "bytes": list(data(token))}
