"""From a reading as data to the reading itself; what it needs is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from server.errors import PlanError
from server.job import ReadingSpec

if TYPE_CHECKING:
    from kvedit.reading import LayerKind, Reading
    from kvedit.shelf import Shelf
    from pine.segments import Segments

KNOWN = (ReadingSpec("pine", cut="set"),)


def build(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    """Return the reading of one prompt, made anew for each sequence.

    segments  the prompt, where the spec has it cut
    shelf     the engine's shelf of shared cache, or None
    raises    PlanError  if there is no such reading
    """
    if spec.name == "pine":
        from pine.reading import PineReading  # brings torch, which planning does without

        assert segments is not None, "the stage has the prompt cut at its set"
        return PineReading(segments, shelf, explain=bool(dict(spec.numbers).get("explain")))
    raise PlanError(
        f"reading must be one that this engine knows, got {spec.name!r}; leave its stage out",
        param="stages",
    )


def refusal(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    """Return why a model of these layers cannot be read so, or None (PlanError as `build`)."""
    from pine.segments import Segments

    return build(spec, Segments((), ((0,),), ()), None).suits(layers)
