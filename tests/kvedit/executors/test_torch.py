"""The specification against the float64 oracle: what the other executors are measured by."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PineOracle, rotary_of
from reads import HALF, SCALING, close, each_executor, each_layer, read, vectors

from kvedit.executors import Executor
from kvedit.executors.cases import RankedSet
from kvedit.executors.torch import TorchExecutor
from kvedit.pages import Pages
from kvedit.reading import Layer
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span, SpanSet
from kvedit.visibility import beyond, causal

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 2e-5
LAYER = Layer(0, HALF, SCALING)


@each_layer
def test_a_ranked_set_equals_the_oracle(layer: Layer, dim: int) -> None:
    sizes, qkv = (4, 7, 3, 5), vectors(2 + 19 + 5, dim=dim)
    oracle = PineOracle(2, list(sizes), rotary_of(layer.geometry), layer.scaling, layer.softcap)
    expected = oracle.attention(*(each[0] for each in qkv))
    found = read(TorchExecutor(), RankedSet(2, sizes), layer, qkv, (24, 1, 1))
    close(found[0].double(), expected, NEAR)


def test_what_sees_nothing_of_a_span_reads_the_others() -> None:
    query, key, value = vectors(3)
    own, far = Span(HALF), Span(None)
    own.append(key, value)
    far.append(key, value)
    alone = (Sight(own, visible=causal),)
    sights = (*alone, Sight(far, away=5, visible=beyond(100)))
    one, other = (
        TorchExecutor().read(LAYER, query, [Rows(slice(0, 3), 0, seen)]) for seen in (alone, sights)
    )
    assert torch.equal(one, other)


@each_executor
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_mass_is_the_log_of_each_spans_weight_without_positions(
    executor: Executor, sizes: list[int], seed: int
) -> None:
    query, key, value = vectors(sum(sizes), seed)
    spans = SpanSet(Pages(sizes, key.device), HALF)
    spans.fill(key, value)
    keys = key.double().repeat_interleave(2, 1)
    scores = query.double() @ keys.transpose(-1, -2) * SCALING
    expected = torch.stack([part.logsumexp(-1) for part in scores.split(sizes, -1)], -1)
    found = executor.mass(LAYER, query, spans)
    close(found.double(), expected, NEAR)


@each_executor
def test_every_weight_by_which_rows_rank_is_told(executor: Executor) -> None:
    query, key, value = vectors(12 + 3)
    spans = SpanSet(Pages((5, 4, 3), key.device), HALF)
    spans.fill(key[:, :, :12], value[:, :, :12])
    told: list[torch.Tensor] = []
    suffix = Span(HALF)
    suffix.append(key[:, :, 12:], value[:, :, 12:])
    sights = (Ranked(spans, 12, told=told.append), Sight(suffix, 12, causal))
    executor.read(LAYER, query[:, :, 12:], [Rows(slice(0, 3), 12, sights)])
    lengths = torch.tensor((5, 4, 3))
    expected = TorchExecutor().mass(LAYER, query[:, :, 12:], spans).softmax(-1) / lengths
    close(torch.cat(told, 2), expected, NEAR)


@each_executor
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_read_in_float32(executor: Executor, dtype: torch.dtype) -> None:
    query, key, value = vectors(3 + 340 + 4)
    half = (query.to(dtype), key.to(dtype), value.to(dtype))
    wide = (half[0].float(), half[1].float(), half[2].float())
    found, expected = (
        read(each, RankedSet(3, (300, 20, 20)), LAYER, qkv, (345, 1, 1))
        for each, qkv in ((executor, half), (TorchExecutor(), wide))
    )
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=1e-2)


@each_executor
def test_rows_of_a_batch_do_not_touch_each_other(executor: Executor) -> None:
    both = vectors(2 + 12 + 5, batch=2)
    found = read(executor, RankedSet(2, (5, 4, 3)), LAYER, both, (17, 1, 1))
    for row in range(2):
        query, key, value = (each[row : row + 1] for each in both)
        alone = read(executor, RankedSet(2, (5, 4, 3)), LAYER, (query, key, value), (17, 1, 1))
        close(found[row : row + 1], alone, NEAR)
