"""PINE: the model reads documents, or candidates, as a set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from server.job import ReadingSpec
from server.stages.as_set import SetStage

Number = Annotated[int, Field(ge=0, strict=True)]


def _ascending(layers: tuple[int, int]) -> tuple[int, int]:
    """Refuse a pair that names no layer."""
    if layers[0] >= layers[1]:
        rule = "two numbers, the first layer and the one after the last"
        raise PydanticCustomError("layers", rule)
    return layers


class Pine(SetStage):
    """Position-invariant attention over one set (arXiv 2407.01100).

    explain  whether the reply's note says how important each document was to what follows them:
             mean attention per document token over layers, heads and tokens, positions left out
    layers   the first layer that reads so, and the one after the last; the others read the set
             plainly, in its canonical order. None = all layers
    """

    stage: Literal["pine"] = "pine"
    explain: bool = False
    layers: Annotated[tuple[Number, Number], AfterValidator(_ascending)] | None = None

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading that the model reads with."""
        numbers: tuple[tuple[str, float], ...] = (("explain", self.explain),)
        if self.layers is not None:
            numbers += (("from", self.layers[0]), ("to", self.layers[1]))
        return ReadingSpec(self.stage, numbers, cut="set")
