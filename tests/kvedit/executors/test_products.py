"""Products with one softmax read what the specification reads, of anything that rows look at."""

import pytest
import torch
from hypothesis import given, settings
from reads import HALF, SCALING, close, read, vectors
from scenes import Scene, scenes

from kvedit.executors import blocks, products
from kvedit.executors.cases import RankedSet
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.torch import TorchExecutor
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import first, within

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 3e-5
LAYER = Layer(0, HALF, SCALING)


@given(scene=scenes())
@settings(max_examples=80)
def test_products_read_what_is_specified(scene: Scene) -> None:
    found = products.read(scene.layer, scene.query, scene.rows())
    expected = TorchExecutor().read(scene.layer, scene.query, [scene.rows()])
    close(found, expected, NEAR)


@given(scene=scenes())
@settings(max_examples=40)
def test_rows_in_small_blocks_are_the_same_rows(scene: Scene) -> None:
    whole = products.read(scene.layer, scene.query, scene.rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks.row_blocks, "__defaults__", (1,))
        pieces = products.read(scene.layer, scene.query, scene.rows())
    close(pieces, whole, NEAR)


def test_a_set_in_small_blocks_is_the_same_set(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = vectors(4 + 29 + 9)
    whole = read(CpuExecutor(), RankedSet(4, (9, 14, 6)), LAYER, qkv, (41, 1))
    monkeypatch.setattr(blocks.row_blocks, "__defaults__", (1,))
    pieces = read(CpuExecutor(), RankedSet(4, (9, 14, 6)), LAYER, qkv, (41, 1))
    close(pieces, whole, NEAR)


@pytest.mark.parametrize(
    ("layer", "plain"),
    [(LAYER, True), (Layer(0, HALF, SCALING, window=4), True), (Layer(0, HALF, 0.5, 1.5), False)],
)
def test_one_span_that_stands_still_is_sdpas_work(layer: Layer, plain: bool) -> None:
    _, key, value = vectors(9)
    (rows,) = PlainReading().rows(layer, key, value)
    assert products.is_plain(layer, rows) == plain


@pytest.mark.parametrize("visible", [first(3), within(2), first(torch.tensor([1, 3, 9]))])
def test_one_span_may_be_seen_in_part(visible: object) -> None:
    query, key, value = vectors(9)
    span = Span(HALF)
    span.append(key, value)
    rows = Rows(slice(0, 3), 6, (Sight(span, visible=visible),))  # type: ignore[arg-type]
    found = products.read(LAYER, query[:, :, :3], rows)
    expected = TorchExecutor().read(LAYER, query[:, :, :3], [rows])
    close(found, expected, NEAR)


@pytest.mark.parametrize("geometry", [HALF, None])
def test_one_span_may_stand_elsewhere_for_each_row(geometry: RotaryGeometry | None) -> None:
    query, key, value = vectors(9)
    span, now = Span(geometry), torch.tensor([2, 5, 8])
    span.append(key, value)
    sight = Sight(span, torch.arange(6, 9) - now, first(now + 1))
    layer, rows = Layer(0, geometry, SCALING), Rows(slice(0, 3), 6, (sight,))
    found = products.read(layer, query[:, :, now], rows)
    expected = TorchExecutor().read(layer, query[:, :, now], [rows])
    close(found, expected, NEAR)
    plain = read(TorchExecutor(), PlainReading(), layer, (query, key, value), (9,))
    close(found, plain[:, :, now], NEAR)
