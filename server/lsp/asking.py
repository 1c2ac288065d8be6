"""From a cursor to the text that is offered there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from server.lsp.backend import Backend, Piece, Refused
from server.lsp.mirror import Mirror
from server.lsp.shape import LINE_END, Shape, kept, offered

LEAST_CONTEXT = 200  # characters; a model that cannot read these is of no use here
BEFORE = 3 / 4  # share of the context that stands before the cursor


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor in a text."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What was offered at a place."""

    place: Place
    text: str

    def rest(self, place: Place) -> str | None:
        """Return what is left of the offer where its beginning was typed, or None elsewhere."""
        typed = place.before.removeprefix(self.place.before)
        if place.after != self.place.after or not place.before.startswith(self.place.before):
            return None
        left = self.text.removeprefix(typed)
        return left if left and self.text.startswith(typed) else None


class Asker:
    """Asks one server, by the best way that it has."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._fills = True  # until the model turns out to have no fill-in-the-middle tokens
        self._context = backend.options.context_characters

    async def ask(self, place: Place, shape: Shape, mirror: Mirror | None) -> str:
        """Return what is offered at a place; empty = nothing.

        mirror  the document that the server keeps; None = it shall see the text around only
        raises  Refused
        """
        if mirror is not None and self.backend.keeps_documents:
            try:
                pieces = mirror.pieces(len(place.before), self._body(shape))
                return await _collected(pieces, place, shape)
            except Refused as refused:
                if self.backend.keeps_documents and refused.code != "context_length_exceeded":
                    raise
        return await self._around(place, shape)

    async def _around(self, place: Place, shape: Shape) -> str:
        """Ask with the text around the cursor, less of it where the model's context is short."""
        while True:
            before, after = window(place, self._context)
            body = self._body(shape) | {"prompt": before}
            if (model := await self.backend.model()) is not None:
                body["model"] = model
            if self._fills and after.strip():
                body["suffix"] = after
            pieces = self.backend.pieces("/v1/completions", body)
            try:
                return await _collected(pieces, place, shape)
            except Refused as refused:
                if refused.param == "suffix" and "suffix" in body:
                    self._fills = False
                elif refused.code == "context_length_exceeded" and self._context > LEAST_CONTEXT:
                    self._context = max(LEAST_CONTEXT, self._context // 2)
                else:
                    raise

    def _body(self, shape: Shape) -> dict[str, Any]:
        body: dict[str, Any] = {
            "max_tokens": self.backend.options.max_tokens,
            "temperature": 0,
        }
        if not shape.lines:
            body["stop"] = ["\n"]
        return body


async def _collected(pieces: AsyncGenerator[Piece], place: Place, shape: Shape) -> str:
    """Return what is offered of a completion; it is stopped as soon as no more of it fits."""
    text, reason, done = "", None, False
    async with aclosing(pieces) as coming:
        async for piece in coming:
            text, reason = text + piece.text, piece.reason or reason
            held, done = kept(text, shape, whole=False)
            if done:
                break
    if not done:
        held, _ = kept(text, shape, whole=reason != "length")
    found = offered(held, shape, cut_off=reason == "length" and not done)
    return LINE_END.sub("\r\n", found) if "\r\n" in place.before + place.after else found


def window(place: Place, characters: int) -> tuple[str, str]:
    """Return the text around a cursor; what one side does not need, the other may have."""
    ahead = min(
        len(place.after), max(int(characters * (1 - BEFORE)), characters - len(place.before))
    )
    before = place.before[max(0, len(place.before) - (characters - ahead)) :]
    if len(before) < len(place.before):  # begin with a whole line
        cut = LINE_END.search(before)
        before = before[cut.end() :] if cut is not None else before
    return before, place.after[:ahead]
