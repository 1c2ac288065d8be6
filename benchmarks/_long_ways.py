"""The ways to read a long text that are measured beside one another, by name: `lambda:512`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks._loaded import Model
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading
from kvedit.reading import Layer, Reading
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import beyond, causal, within

CHUNK = 256  # tokens of a forward whose logits are wanted
FIRST = 10  # tokens that LM-Infinite pins
NAMES = {
    "plain": "plain",
    "lambda": "LM-Infinite",
    "zero": "window alone",
    "true": "true distance",
    "again": "window read again",
    "cut": "oldest turns left out",  # of a chat
}


class TrueDistance(LmInfiniteReading):
    """First tokens and a window, as LM-Infinite, but the first ones stay where they are."""

    def __init__(self, first: int, window: int) -> None:
        super().__init__(first, window, window)
        self._pinned, self._wide = first, window
        self._framed: dict[int, tuple[Span, Span]] = {}

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Append to the ring, and to the first tokens what they lack."""
        if layer.index not in self._framed:
            self._framed[layer.index] = Span(layer.geometry), Span(layer.geometry)
        first, ring = self._framed[layer.index]
        place, new = ring.length, slice(0, max(self._pinned - ring.length, 0))
        ring.drop(max(ring.held - self._wide + 1, 0))
        first.append(key[:, :, new], value[:, :, new])
        ring.append(key, value)
        sights = [Sight(ring, visible=causal & within(self._wide))]
        if ring.length > self._wide and first.held:
            sights.append(Sight(first, 0, beyond(self._wide)))
        return (Rows(slice(0, key.shape[2]), place, tuple(sights)),)


@dataclass(frozen=True)
class Way:
    """A way to read a long text.

    kind    one of NAMES
    window  tokens, 0 for plain
    """

    kind: str
    window: int = 0

    @classmethod
    def of(cls, said: str) -> Way:
        """Return what `lambda:512` says."""
        kind, _, window = said.partition(":")
        windowed = [name for name in NAMES if name not in ("plain", "cut")]
        if said != "plain" and not (kind in windowed and window.isdecimal()):
            names = ", ".join(f"{name}:WINDOW" for name in windowed)
            raise SystemExit(f"way must be one of plain, {names}, got {said}")
        return cls(kind, int(window or 0))

    def __str__(self) -> str:
        name = NAMES[self.kind]
        return name if self.kind == "plain" else f"{name}, {self.window:,}"

    def reading(self) -> Reading:
        """Return a reading that has read nothing."""
        if self.kind in ("plain", "again", "cut"):
            return PlainReading()
        if self.kind == "true":
            return TrueDistance(FIRST, self.window)
        return LmInfiniteReading(FIRST if self.kind == "lambda" else 0, self.window, self.window)


def read(model: Model, reading: Reading, ids: Sequence[int], chunk: int = CHUNK) -> None:
    """Read tokens whose logits nobody wants."""
    for begin in range(0, len(ids), chunk):
        tokens = torch.tensor([list(ids[begin : begin + chunk])])
        model.door.forward(tokens, reading, None)


def losses(model: Model, reading: Reading, ids: Sequence[int], then: int | None) -> list[float]:
    """Return the loss of each token behind each of some tokens, nats; `then` follows the last."""
    found, following = list[float](), [*ids[1:], *([] if then is None else [then])]
    for begin in range(0, len(following), CHUNK):
        right = torch.tensor(following[begin : begin + CHUNK])
        tokens = torch.tensor([list(ids[begin : begin + len(right)])])
        logits = model.door.forward(tokens, reading, 0)[0].float()
        found += torch.nn.functional.cross_entropy(logits, right, reduction="none").tolist()
    return found


def copied(model: Model, reading: Reading) -> Reading:
    """Return a reading that has read the same and goes on by itself."""
    return copy.deepcopy(reading, {id(each): each for each in model.door.geometries})
