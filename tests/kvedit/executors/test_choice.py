"""Which executor reads is measured: one that is off anywhere, or raises, is not used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from devices import ONE, OTHER, Devices
from models import tiny_llama
from reads import HALF, INTERLEAVED, SCALING
from torch import Tensor

from kvedit.executors import Executor, choice
from kvedit.executors.cases import Shape
from kvedit.executors.choice import choose, difference
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.torch import TorchExecutor
from kvedit.hf import open_door
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import SpanSet

CPU = torch.device("cpu")


def shape(layer: Layer | None = None, dtype: torch.dtype = torch.float32, dim: int = 16) -> Shape:
    return Shape(layer or Layer(0, HALF, 0.25), 4, 2, dim, dtype, CPU)


def shape_on(device: torch.device) -> Shape:
    return replace(shape(Layer(0, HALF.on(device), 0.25)), device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(Layer(0, HALF, 0.25), id="half"),
        pytest.param(Layer(0, INTERLEAVED, 0.25), id="interleaved"),
        pytest.param(Layer(0, None, 0.25), id="no positions"),
        pytest.param(Layer(0, HALF, 0.25, softcap=20.0), id="capped"),
    ],
)
def test_the_loops_measure_right(layer: Layer, dtype: torch.dtype) -> None:
    assert difference(CpuExecutor(), shape(layer, dtype)) is None
    assert choose([shape(layer, dtype)]).executor.name == "cpu"


class Wrong(TorchExecutor):
    """Reads all rows but for one fault."""

    name = "wrong"

    def __init__(self, fault: Callable[[Layer, Rows], tuple[Layer, Rows]]) -> None:
        self._fault = fault

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        output = torch.zeros_like(query)
        for each in rows:
            kind, seen = self._fault(layer, each)
            own = Rows(slice(0, each.count), seen.place, seen.sights)
            part = super().read(kind, query[:, :, each.tokens], [own])
            output[:, :, each.tokens] = part
        return output


def wrong_sign(layer: Layer, rows: Rows) -> tuple[Layer, Rows]:
    """Turn queries the other way."""
    assert layer.geometry is not None
    geometry = RotaryGeometry(-layer.geometry.inv_freq, layer.geometry.layout)
    return replace(layer, geometry=geometry), rows


def off_by_one(layer: Layer, rows: Rows) -> tuple[Layer, Rows]:
    """Let windows show one token more."""
    sights = tuple(
        replace(each, visible=replace(each.visible, farthest=each.visible.farthest + 1))
        if isinstance(each, Sight) and each.visible.farthest is not None
        else each
        for each in rows.sights
    )
    return layer, replace(rows, sights=sights)


def one_too_far(layer: Layer, rows: Rows) -> tuple[Layer, Rows]:
    """Let first tokens appear one token farther away."""
    sights = tuple(
        replace(each, away=each.away + 1)
        if isinstance(each, Sight) and each.away is not None
        else each
        for each in rows.sights
    )
    return layer, replace(rows, sights=sights)


def one_missing(layer: Layer, rows: Rows) -> tuple[Layer, Rows]:
    """Forget what is seen first, where there is anything else."""
    return layer, replace(rows, sights=rows.sights[1:] or rows.sights)


def every_row_counts_as_the_first(layer: Layer, rows: Rows) -> tuple[Layer, Rows]:
    """Show all rows as many first tokens as the first one sees."""

    def first(sight: Sight | Ranked) -> Sight | Ranked:
        if isinstance(sight, Sight) and isinstance(sight.visible.count, Tensor):
            count = int(sight.visible.count[0])
            return replace(sight, visible=replace(sight.visible, count=count))
        return sight

    return layer, replace(rows, sights=tuple(map(first, rows.sights)))


def not_ranked(layer: Layer, rows: Rows) -> tuple[Layer, Rows]:
    """Leave a set's spans where they are."""

    def unranked(ranked: Ranked) -> list[Sight]:
        spans, start, found = ranked.spans, ranked.end, list[Sight]()
        for index, size in enumerate(spans.pages.sizes):
            if index != ranked.own:
                start -= size
                found.append(Sight(spans.span(index), start))
        return found

    sights: list[Sight | Ranked] = []
    for each in rows.sights:
        sights += unranked(each) if isinstance(each, Ranked) and each.own is None else [each]
    return layer, replace(rows, sights=tuple(sights))


def no_cap(layer: Layer, rows: Rows) -> tuple[Layer, Rows]:
    """Forget the soft cap."""
    return replace(layer, softcap=None), rows


FAULTS = [
    (wrong_sign, "a plain text"),
    (off_by_one, "a window and first tokens"),
    (one_too_far, "a window and first tokens"),
    (one_missing, "a window and first tokens"),
    (every_row_counts_as_the_first, "two groups"),
    (not_ranked, "a set"),
    (no_cap, "a plain text"),
]


@pytest.mark.parametrize(("fault", "what"), FAULTS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_fault_is_seen_where_it_is(
    fault: Callable[[Layer, Rows], tuple[Layer, Rows]], what: str
) -> None:
    layer = Layer(0, HALF, 0.25, softcap=3.0 if fault is no_cap else None)
    reason = difference(Wrong(fault), shape(layer))
    assert reason is not None
    assert reason.startswith(f"what it reads of {what} is off by ")


class Spoilt(TorchExecutor):
    """Gives NaN for one entry, or raises, once it decodes."""

    name = "spoilt"

    def __init__(self, number: float | None) -> None:
        self._number = number

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        output = super().read(layer, query, rows)
        if query.shape[2] == 1:
            if self._number is None:
                raise RuntimeError("no such kernel")
            output[0, 0, 0, 0] = self._number
        return output


@pytest.mark.parametrize("number", [torch.nan, torch.inf, 1e6])
def test_what_is_no_number_is_no_agreement(number: float) -> None:
    assert difference(Spoilt(number), shape()) is not None


def offered(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Executor]) -> None:
    monkeypatch.setattr(choice, "_cpu", make)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Wrong(wrong_sign), "what it reads of a plain text is off by"),
        (lambda: Spoilt(torch.nan), "what it reads of a plain text is off by nan"),
        (lambda: Spoilt(None), "it fails with RuntimeError: no such kernel"),
    ],
    ids=["off", "NaN", "raises"],
)
def test_who_measures_wrong_is_not_used_and_the_reason_is_kept(
    make: Callable[[], Executor],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    offered(monkeypatch, make)
    made = choose([shape()])
    assert made.executor.name == "torch"
    assert list(made.refusals) == ["cpu"]
    assert made.refusals["cpu"].startswith(reason)
    assert "executor 'cpu' cannot read" in caplog.text


def test_one_that_cannot_even_be_made_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Executor:
        raise ImportError("no numba here")

    offered(monkeypatch, missing)
    made = choose([shape()])
    assert made.executor.name == "torch"
    assert made.refusals == {"cpu": "it fails with ImportError: no numba here"}


def test_each_kind_of_layer_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right for one kind of layers and wrong for another is wrong."""
    offered(monkeypatch, lambda: Wrong(no_cap))
    capped = shape(Layer(0, HALF, 0.25, softcap=3.0))
    assert choose([shape()]).executor.name == "wrong"
    assert choose([shape(), capped]).executor.name == "torch"


def test_float64_is_read_as_precisely_as_it_is_specified() -> None:
    """The loops are for float32 at most."""
    made = choose([shape(dtype=torch.float64)])
    assert made.executor.name == "torch"
    assert made.refusals == {"cpu": "its loops are for float32 at most, got float64"}


def test_other_devices_have_no_loops() -> None:
    meta = replace(shape(), device=torch.device("meta"))
    made = choose([meta])
    assert (made.executor.name, dict(made.refusals)) == ("torch", {})


def test_what_reads_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        choose([shape()])
    assert "executor 'cpu' reads" in caplog.text


def test_a_door_chooses_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    assert open_door(model).executor.name == "cpu"
    told = open_door(model, TorchExecutor())
    assert (told.executor.name, dict(told.choice.refusals)) == ("torch", {})
    offered(monkeypatch, lambda: Wrong(one_missing))
    door = open_door(model)
    assert door.refusal is None
    assert door.executor.name == "torch"
    assert "a window and first tokens is off by" in door.choice.refusals["cpu"]


class Unfaithful(CpuExecutor):
    """Weighs a set's spans wrongly."""

    def mass(self, layer: Layer, query: Tensor, spans: SpanSet) -> Tensor:
        return super().mass(layer, query, spans) + 1


def test_weights_are_measured_too() -> None:
    reason = difference(Unfaithful(), shape())
    assert reason is not None
    assert reason.startswith("how it weighs a set is off by")


def test_scaling_is_the_layers() -> None:
    assert difference(CpuExecutor(), shape(Layer(0, HALF, SCALING), dim=8)) is None


def test_devices_that_are_read_alike_have_one_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        choice, "_candidates", lambda device: iter([("wrong", lambda: Spoilt(None))])
    )
    with Devices():
        chosen = choose([shape_on(ONE), shape_on(OTHER)])
    assert isinstance(chosen.executor, TorchExecutor)
    [(name, reason)] = chosen.refusals.items()
    each = "it fails with RuntimeError: no such kernel"
    assert (name, reason) == ("wrong", f"on {ONE}: {each}; on {OTHER}: {each}")


def test_devices_that_are_not_have_one_each() -> None:
    with Devices():
        shapes = [shape_on(CPU), shape_on(ONE)]
        chosen = choose(shapes)
        assert chosen.executor.name == "cpu+torch"
        assert not hasattr(chosen.executor, "packs")
        assert [difference(chosen.executor, each) for each in shapes] == [None, None]
