"""From a reading as data to the reading itself; what it needs is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from kvedit.orders import Order, orders
from server.errors import PlanError
from server.job import ReadingSpec

if TYPE_CHECKING:
    from kvedit.reading import LayerKind, Reading
    from kvedit.segments import Segments
    from kvedit.shelf import Shelf

    Build = Callable[[ReadingSpec, Segments | None, Shelf | None], Reading]
    Refuse = Callable[[ReadingSpec, Sequence[LayerKind]], str | None]

ENDLESS = "lm-infinite"
KNOWN = (
    *(ReadingSpec(name, cut="set") for name in ("average", "parallel", "pine", "rerank")),
    ReadingSpec("group-positions", cut="source-target"),
    ReadingSpec(ENDLESS),
    ReadingSpec("pie"),
)


def build(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    """Return the reading of one prompt, made anew for each sequence.

    segments  the prompt, where the spec has it cut
    shelf     the engine's shelf of shared cache, or None
    raises    PlanError  if there is no reading of that name
    """
    return _of(spec)[0](spec, segments, shelf)


def endless(spec: ReadingSpec | None) -> bool:
    """Return whether a text that is read so may be longer than the model's context."""
    return spec is not None and spec.name == ENDLESS


def fitted(spec: ReadingSpec, context: int) -> ReadingSpec:
    """Return a reading with the numbers that depend on the model, where none are given.

    context  tokens that the model reads at once: what it was trained to, or what it was given
    raises   PlanError  if a number is more than the model was trained to
    """
    if not endless(spec):
        return spec
    numbers = dict(spec.numbers)
    window = int(numbers.setdefault("window", context))
    if window > context:
        raise PlanError(
            f"stage {ENDLESS!r} field 'window' must be at most {context}, the context of the "
            f"model, got {window}; correct it, or leave it out",
            param="stages",
        )
    numbers.setdefault("cap", window)
    return replace(spec, numbers=tuple(numbers.items()))


def spread(spec: ReadingSpec, segments: Segments) -> int:
    """Return how many tokens a prompt becomes that is read so: several orders are as many texts."""
    if spec.name != "average":
        return len(segments.ids)
    prefix = len(segments.prefix)
    return prefix + len(_orders(spec, segments)) * (len(segments.ids) - prefix)


def refusal(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    """Return why a model of these layers cannot be read so, or None.

    raises  PlanError  if there is no reading of that name, or its numbers do not fit the model
    """
    return _of(spec)[1](spec, layers)


# torch comes with them, and planning does without: each is imported where it is used


def _average(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    from kvedit.average import AverageReading

    assert segments is not None, "the stage has the prompt cut at its set"
    return AverageReading(segments, _orders(spec, segments), shelf)


def _orders(spec: ReadingSpec, segments: Segments) -> tuple[Order, ...]:
    """Return the orders in which the documents are averaged over."""
    wanted = int(dict(spec.numbers).get("orders", 0)) or None
    return orders(len(segments.documents), wanted)


def _refuse_average(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    from kvedit.average import AverageReading

    return AverageReading.suits(layers)


def _parallel(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    from kvedit.parallel import ParallelReading

    assert segments is not None, "the stage has the prompt cut at its set"
    return ParallelReading(segments, shelf)


def _refuse_parallel(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    from kvedit.parallel import ParallelReading

    return ParallelReading.suits(layers)


def _pine(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    from pine.reading import PineReading

    assert segments is not None, "the stage has the prompt cut at its set"
    explain = bool(dict(spec.numbers).get("explain"))
    return PineReading(segments, shelf, explain=explain, layers=_layers(spec))


def _refuse_pine(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    from pine.reading import PineReading

    asked = _layers(spec)
    if asked is not None and asked[1] > len(layers):
        raise PlanError(
            f"stage 'pine' field 'layers' must end at {len(layers)} at most, as many layers has "
            f"the model, got {list(asked)}; correct it",
            param="stages",
        )
    return PineReading.suits(layers)


def _layers(spec: ReadingSpec) -> tuple[int, int] | None:
    """Return the layers in which PINE reads, or None for all."""
    numbers = dict(spec.numbers)
    return (int(numbers["from"]), int(numbers["to"])) if "to" in numbers else None


def _group_positions(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    from kvedit.group_position import GroupPositionReading

    return GroupPositionReading(int(dict(spec.numbers).get("offset", 0)))


def _refuse_group_positions(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    from kvedit.group_position import GroupPositionReading

    return GroupPositionReading.suits(layers)


def _lm_infinite(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    from kvedit.lm_infinite import LmInfiniteReading

    return LmInfiniteReading(**{name: int(number) for name, number in spec.numbers})


def _refuse_lm_infinite(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    from kvedit.lm_infinite import LmInfiniteReading

    return LmInfiniteReading.suits(layers)


def _pie(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    from kvedit.edited import EditedReading

    return EditedReading()


def _refuse_pie(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    from kvedit.edited import EditedReading

    return EditedReading.suits(layers)


def _rerank(spec: ReadingSpec, segments: Segments | None, shelf: Shelf | None) -> Reading:
    from kvedit.rerank import RerankReading

    assert segments is not None, "the stage has the prompt cut at its set"
    return RerankReading(segments, last=bool(dict(spec.numbers).get("last")))


def _refuse_rerank(spec: ReadingSpec, layers: Sequence[LayerKind]) -> str | None:
    from kvedit.rerank import RerankReading

    return RerankReading.suits(layers)


READINGS: Mapping[str, tuple[Build, Refuse]] = MappingProxyType(
    {
        "average": (_average, _refuse_average),
        "group-positions": (_group_positions, _refuse_group_positions),
        ENDLESS: (_lm_infinite, _refuse_lm_infinite),
        "parallel": (_parallel, _refuse_parallel),
        "pie": (_pie, _refuse_pie),
        "pine": (_pine, _refuse_pine),
        "rerank": (_rerank, _refuse_rerank),
    }
)


def _of(spec: ReadingSpec) -> tuple[Build, Refuse]:
    if spec.name not in READINGS:
        raise PlanError(
            f"reading must be one that this engine knows, got {spec.name!r}; leave its stage out",
            param="stages",
        )
    return READINGS[spec.name]
