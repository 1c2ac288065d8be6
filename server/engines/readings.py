"""From a reading as data to the reading itself; what it needs is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from server.errors import PlanError
from server.job import ReadingSpec

if TYPE_CHECKING:
    from kvedit.reading import LayerKind, Reading
    from kvedit.segments import Segments
    from kvedit.shelf import Shelf

KNOWN = tuple(ReadingSpec(name, cut="set") for name in ("average", "parallel", "pine"))


def kind(spec: ReadingSpec) -> type[Reading]:
    """Return the class of a reading (PlanError if there is none of that name)."""
    # each brings torch, which planning does without
    if spec.name == "pine":
        from pine.reading import PineReading

        return PineReading
    if spec.name == "average":
        from kvedit.average import AverageReading

        return AverageReading
    if spec.name == "parallel":
        from kvedit.parallel import ParallelReading

        return ParallelReading
    raise PlanError(
        f"reading must be one that this engine knows, got {spec.name!r}; leave its stage out",
        param="stages",
    )


def build(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    """Return the reading of one prompt, made anew for each sequence (PlanError as `kind`).

    segments  the prompt, where the spec has it cut
    shelf     the engine's shelf of shared cache, or None
    """
    from kvedit.average import AverageReading
    from kvedit.orders import orders
    from kvedit.parallel import ParallelReading

    made, numbers = kind(spec), dict(spec.numbers)
    assert segments is not None, "the stage has the prompt cut at its set"
    if made is AverageReading:
        wanted = int(numbers.get("orders", 0)) or None
        return AverageReading(segments, orders(len(segments.documents), wanted), shelf)
    if made is ParallelReading:
        return ParallelReading(segments, shelf)
    from pine.reading import PineReading

    return PineReading(segments, shelf, explain=bool(numbers.get("explain")))


def refusal(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    """Return why a model of these layers cannot be read so, or None (PlanError as `kind`)."""
    return kind(spec).suits(layers)
