"""A few rows, by one call of a compiled loop: what the specification reads, of anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reads import HALF, INTERLEAVED, SCALING, close, read, vectors
from scenes import Look, Scene, scenes

from kvedit.executors.cases import RankedSet
from kvedit.executors.cpu import few
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.cpu.loops import MOST_ROWS
from kvedit.executors.cpu.pieces import Cut
from kvedit.executors.torch import TorchExecutor
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.rotary import TABLE_REACH
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import causal

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 3e-5
LAYER = Layer(0, HALF, SCALING)


def loop(scene: Scene) -> torch.Tensor:
    """Return what the loop reads."""
    rows = scene.rows()
    sets = [each.spans.pages for each in rows.sights if isinstance(each, Ranked)]
    cut = Cut.of(sets[0]) if sets else None
    return few.read(scene.layer, cut, scene.query, rows)


# by dtype, how much a result may be off: rounding what is cached, the same for both, and the output
ROUNDED = {torch.float32: NEAR, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}
each_dtype = pytest.mark.parametrize("dtype", ROUNDED, ids=str)


@given(scene=scenes(MOST_ROWS, still=True))
@settings(max_examples=200)
def test_a_few_rows_read_what_is_specified(scene: Scene) -> None:
    rows = scene.rows()
    if few.fits(scene.query, rows):
        expected = TorchExecutor().read(scene.layer, scene.query, [scene.rows()])
        close(loop(scene), expected, NEAR)
    else:
        assert scene.ranked, "only a set's table of angles has an end"


@given(
    scene=scenes(MOST_ROWS, still=True),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
@settings(max_examples=100)
def test_half_types_are_read_as_exactly_as_they_are_kept(scene: Scene, dtype: torch.dtype) -> None:
    """Sums are float32: what is off is one rounding of the output, and of keys that are turned."""
    halved = replace(scene, dtype=dtype)
    rows = halved.rows()
    assume(few.fits(halved.query, rows) and len(scene.ranked) < 2)  # near ties may rank either way
    expected = TorchExecutor().read(scene.layer, halved.query.float(), [halved.rows()])
    found = loop(halved)
    assert found.dtype == dtype
    close(found.float(), expected, ROUNDED[dtype] * max(1.0, float(expected.abs().max())))


@given(scene=scenes())
@settings(max_examples=60)
def test_the_executor_reads_any_rows_as_specified(scene: Scene) -> None:
    found = CpuExecutor().read(scene.layer, scene.query, [scene.rows()])
    expected = TorchExecutor().read(scene.layer, scene.query, [scene.rows()])
    close(found, expected, NEAR)


@each_dtype
@pytest.mark.parametrize("count", range(1, MOST_ROWS + 1))
def test_what_is_read_is_cached_where_it_belongs(count: int, dtype: torch.dtype) -> None:
    """Tokens that the loop turns and writes are there for whoever reads next."""
    look = Look("still", "everything", False, 20, 3, 2, 5, 0)
    scene = Scene(LAYER, 8, count, 60, 9, (look,), dtype=dtype)
    rows, expected = scene.rows(), scene.rows()
    few.read(LAYER, None, scene.query, rows)
    for one, other in zip(rows.sights, expected.sights, strict=True):
        assert isinstance(one, Sight) and isinstance(other, Sight)
        assert not one.span._pending
        close(one.span.keys.float(), other.span.keys.float(), 2 * ROUNDED[dtype])
        assert torch.equal(one.span.values, other.span.values)


@pytest.mark.parametrize("made", ["cut", "held for somebody", "held in two ways"])
@pytest.mark.parametrize("ends", [(0, 20), (0, 13), (5, 20), (6, 11)], ids=str)
def test_heads_may_lie_further_apart_than_what_a_span_has(made: str, ends: tuple[int, int]) -> None:
    """A cut is a part of a buffer that has room for more."""
    whole, (query, key, value) = Span(HALF), vectors(20)
    whole.append(key, value)
    some = slice(*ends)
    keys, values = whole.keys[:, :, some], whole.values[:, :, some]
    spans = {
        "cut": whole.cut(*ends),
        "held for somebody": Span.holding(HALF, keys, values, ends[0]),
        "held in two ways": Span.holding(HALF, keys, values.contiguous(), ends[0]),
    }
    rows = Rows(slice(0, 2), 20, (Sight(spans[made]),))
    plain = Span.holding(HALF, keys.contiguous(), values.contiguous(), ends[0])
    expected = TorchExecutor().read(
        LAYER, query[:, :, :2], [Rows(rows.tokens, 20, (Sight(plain),))]
    )
    close(few.read(LAYER, None, query[:, :, :2], rows), expected, NEAR)


def test_more_fresh_tokens_than_the_loop_writes_are_written_before() -> None:
    look = Look("still", "everything", False, 20, MOST_ROWS + 2, 0, 5, 0)
    scene = Scene(LAYER, 8, 1, 60, 9, (look,))
    expected = TorchExecutor().read(LAYER, scene.query, [scene.rows()])
    close(loop(scene), expected, NEAR)


def reads(case: Sequence[tuple[int, ...]], layer: Layer) -> list[torch.Tensor]:
    """Return what a prefix, a set and a suffix read, by both executors."""
    (prefix, suffix), sizes = case
    qkv = vectors(prefix + sum(sizes) + suffix + 3, dim=16, scale=1.2)
    forwards = (prefix + sum(sizes) + suffix, 1, 1, 1)
    return [
        read(executor, RankedSet(prefix, sizes), layer, qkv, forwards)
        for executor in (CpuExecutor(), TorchExecutor())
    ]


CASES = [
    pytest.param(((5, 3), (40, 40, 40)), id="equal spans"),
    pytest.param(((0, 2), (7, 90, 1, 33, 34)), id="unequal spans, padded"),
    pytest.param(((3, 2), (300, 290)), id="two long ones, cut short"),
    pytest.param(((2, 1), (270, 3, 600, 5)), id="long ones between short ones"),
    pytest.param(((70, 4), (9,)), id="one span after a long prefix"),
]
LAYERS = [
    pytest.param(LAYER, id="half, partial"),
    pytest.param(Layer(0, INTERLEAVED, SCALING), id="interleaved, partial"),
    pytest.param(Layer(0, None, SCALING), id="no positions"),
    pytest.param(Layer(0, HALF, SCALING, 3.0), id="capped"),
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", CASES)
def test_prompts_and_steps_around_a_set(case: Sequence[tuple[int, ...]], layer: Layer) -> None:
    found, expected = reads(case, layer)
    torch.testing.assert_close(found, expected, atol=4e-5, rtol=0)


@pytest.mark.parametrize("place", [TABLE_REACH - 2, TABLE_REACH + 5, 1 << 20])
def test_a_set_far_out_is_read_by_others_or_right(place: int) -> None:
    scene = Scene(LAYER, 8, 3, place, 4, (), (9, 5, 7), 2)
    found = CpuExecutor().read(LAYER, scene.query, [scene.rows()])
    expected = TorchExecutor().read(LAYER, scene.query, [scene.rows()])
    close(found, expected, NEAR)


def test_several_batch_rows_decode_by_products() -> None:
    qkv = vectors(9 + 2, batch=2)
    query, key, value = (each[:, :, :1] for each in qkv)
    rows = PlainReading().rows(LAYER, key, value)
    assert not few.fits(query, rows[0])
    found = read(CpuExecutor(), RankedSet(2, (3, 4)), LAYER, qkv, (9, 1, 1))
    expected = read(TorchExecutor(), RankedSet(2, (3, 4)), LAYER, qkv, (9, 1, 1))
    close(found, expected, NEAR)


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_threads_changes_no_bit(case: Sequence[tuple[int, ...]]) -> None:
    before, outputs = torch.get_num_threads(), []
    (prefix, suffix), sizes = case
    prompt = prefix + sum(sizes) + suffix  # products of matrices are torch's own affair
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs.append(reads(case, LAYER)[0][:, :, prompt:])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@each_dtype
def test_vectors_are_read_where_they_lie(dtype: torch.dtype) -> None:
    """Queries, keys and values may be views of what one product wrote for all tokens."""
    fused = torch.randn(1, 3, 8 * 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    query, key, value = (
        each.unflatten(-1, (-1, 8)).transpose(1, 2) for each in fused.split([32, 16, 16], -1)
    )
    outputs = []
    for copied in (False, True):
        own = [each.contiguous() if copied else each for each in (query, key, value)]
        rows = PlainReading().rows(LAYER, own[1], own[2])
        outputs.append(few.read(LAYER, None, own[0], rows[0]))
    assert not query.is_contiguous()
    assert torch.equal(*outputs)
    strewn = [each.mT.contiguous().mT for each in (query, key, value)]
    assert strewn[0].stride(-1) != 1
    rows = PlainReading().rows(LAYER, strewn[1], strewn[2])
    assert torch.equal(few.read(LAYER, None, strewn[0], rows[0]), outputs[0])


def test_a_ring_that_has_dropped_tokens_is_read_from_its_oldest() -> None:
    query, key, value = vectors(30)
    outputs = []
    for executor in (CpuExecutor(), TorchExecutor()):
        ring, own = Span(HALF), Span(HALF)
        ring.append(key[:, :, :20], value[:, :, :20])
        ring.drop(12)
        ring.append(key[:, :, 20:29], value[:, :, 20:29])
        own.append(key[:, :, 29:], value[:, :, 29:])
        rows = Rows(slice(0, 1), 29, (Sight(ring), Sight(own, 29, causal)))
        outputs.append(executor.read(LAYER, query[:, :, 29:], [rows]))
    close(outputs[0], outputs[1], NEAR)
