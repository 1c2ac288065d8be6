"""PINE against the float64 oracle, and its law: order does not exist."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import in_dtype, tiny_llama, tiny_qwen2
from oracles import PineOracle, rotary_of
from reads import HALF, Vectors, close, each_executor, each_layer, read, vectors
from torch import Tensor
from transformers import PreTrainedModel

from kvedit.executors import Executor, blocks
from kvedit.executors.cpu import groups
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.hf import Door, open_door
from kvedit.reading import Layer, LayerKind
from kvedit.segments import Segments
from pine.reading import PineReading

NEAR = 2e-5
LAYER = Layer(0, HALF, 0.5)

# prefix, documents, suffix in prefill, suffix token by token
CUTS = [
    pytest.param(3, [5, 2], 4, 3, id="two documents"),
    pytest.param(2, [4, 7, 3, 5], 3, 2, id="four documents"),
    pytest.param(0, [4, 3, 3], 3, 1, id="no prefix"),
    pytest.param(3, [4, 3, 6], 0, 2, id="no suffix"),
    pytest.param(2, [6], 2, 2, id="one document"),
    pytest.param(1, [1, 1, 1], 1, 2, id="documents of one token"),
    pytest.param(2, [70, 1, 3], 2, 1, id="very unequal documents"),
    pytest.param(0, [3, 3], 0, 1, id="nothing but documents"),
]


def segments_of(prefix: int, lengths: list[int], suffix: int) -> Segments:
    documents = tuple((place,) * length for place, length in enumerate(lengths))
    return Segments((0,) * prefix, documents, (0,) * suffix)


def read_prompt(
    executor: Executor, segments: Segments, qkv: Vectors, layer: Layer = LAYER
) -> Tensor:
    """Read the prompt at once and the rest token by token."""
    prompt = len(segments.ids)
    steps = [1] * (qkv[0].shape[2] - prompt)
    return read(executor, PineReading(segments), layer, qkv, (prompt, *steps))


@each_executor
@each_layer
@pytest.mark.parametrize(("prefix", "lengths", "suffix", "steps"), CUTS)
def test_it_equals_the_oracle(
    executor: Executor,
    prefix: int,
    lengths: list[int],
    suffix: int,
    steps: int,
    layer: Layer,
    dim: int,
) -> None:
    segments = segments_of(prefix, lengths, suffix)
    qkv = vectors(len(segments.ids) + steps, dim=dim)
    rotary = rotary_of(layer.geometry)
    oracle = PineOracle(prefix, lengths, rotary, layer.scaling, layer.softcap)
    expected = oracle.attention(*(each[0] for each in qkv))
    found = read_prompt(executor, segments, qkv, layer)
    close(found[0].double(), expected, NEAR)


def test_small_blocks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    segments = segments_of(4, [9, 14, 6], 8)
    qkv = vectors(len(segments.ids) + 1)
    whole = read_prompt(CpuExecutor(), segments, qkv)
    monkeypatch.setattr(blocks.row_blocks, "__defaults__", (1,))
    monkeypatch.setattr(groups, "BUDGET", 1)
    pieces = read_prompt(CpuExecutor(), segments, qkv)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


@each_executor
def test_the_suffix_in_one_piece_or_token_by_token(executor: Executor) -> None:
    qkv = vectors(2 + 12 + 6)
    once = read_prompt(executor, segments_of(2, [5, 4, 3], 6), qkv)
    later = read_prompt(executor, segments_of(2, [5, 4, 3], 0), qkv)
    torch.testing.assert_close(later, once, atol=1e-5, rtol=0)


@each_executor
def test_rows_of_a_batch_do_not_touch_each_other(executor: Executor) -> None:
    both, cut = vectors(2 + 12 + 3 + 1, batch=2), segments_of(2, [5, 4, 3], 3)
    found = read_prompt(executor, cut, both)
    for row in range(2):
        query, key, value = (each[row : row + 1] for each in both)
        expected = read_prompt(executor, cut, (query, key, value))
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=0)


@each_executor
def test_soft_capped_scores_reach_both_products(executor: Executor) -> None:
    cut = segments_of(2, [4, 3, 2], 2)
    qkv = vectors(len(cut.ids))
    free, wide, capped = (
        read_prompt(executor, cut, qkv, Layer(0, HALF, 0.5, cap)) for cap in (None, 1e4, 0.5)
    )
    torch.testing.assert_close(free, wide, atol=1e-4, rtol=0)
    assert (free - capped).abs().max() > 1e-2


def run(door: Door, documents: list[tuple[int, ...]], steps: int = 4) -> list[Tensor]:
    """Return last-token logits of prefill and some greedy steps."""
    segments = Segments((1, 5, 9), tuple(documents), (3, 8, 2)).canonical()
    reading, ids, found = PineReading(segments), torch.tensor([segments.ids]), []
    for _ in range(steps):
        found.append(door.forward(ids, reading)[0, -1])
        ids = found[-1].argmax().view(1, 1)
    return found


DOCUMENTS = [(4, 5, 6, 7), (9, 8), (4, 5, 6), (9, 8), (30,) * 40]


@each_executor
@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_permuting_documents_leaves_logits_bitwise_equal(
    executor: Executor, build: Callable[[], PreTrainedModel], dtype: torch.dtype
) -> None:
    door = open_door(in_dtype(build(), dtype), executor)
    assert door.refusal is None
    expected = run(door, DOCUMENTS)
    for order in itertools.islice(itertools.permutations(DOCUMENTS), 1, 120, 17):
        found = run(door, list(order))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@torch.inference_mode()
def test_without_canonical_order_the_bits_do_change() -> None:
    """The planted fault: what the law above would miss if it could not fail."""
    door = open_door(tiny_llama())

    def logits(documents: list[tuple[int, ...]]) -> Tensor:
        segments = Segments((1, 5, 9), tuple(documents), (3, 8, 2))
        return door.forward(torch.tensor([segments.ids]), PineReading(segments))

    documents = [tuple(range(d, d + 9 + d)) for d in range(6)]
    assert not torch.equal(logits(documents), logits(documents[::-1]))


@pytest.fixture(scope="module")
def door() -> Door:
    return open_door(tiny_llama())


@given(
    documents=st.lists(
        st.lists(st.integers(0, 127), min_size=1, max_size=12).map(tuple), min_size=1, max_size=5
    ),
    seed=st.integers(0, 9),
)
@settings(max_examples=15)
def test_any_documents_in_any_order(
    door: Door, documents: list[tuple[int, ...]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shuffled = [documents[i] for i in torch.randperm(len(documents), generator=generator)]
    with torch.inference_mode():
        one, other = run(door, documents, 2), run(door, shuffled, 2)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


SEGMENTS = Segments((1, 5), ((3, 4, 6), (7, 8), (9, 2, 3, 1)), (4, 4))


@torch.inference_mode()
def test_the_last_tokens_logits_are_what_they_are_among_all(door: Door) -> None:
    ids = torch.tensor([SEGMENTS.ids])
    whole, last = (door.forward(ids, PineReading(SEGMENTS), keep) for keep in (0, 1))
    torch.testing.assert_close(last[:, -1], whole[:, -1], atol=1e-5, rtol=0)
    assert door.forward(ids, PineReading(SEGMENTS), None).shape[1] == 0


@torch.inference_mode()
def test_a_prompt_that_ends_with_its_documents_is_read_whole(door: Door) -> None:
    segments = Segments(SEGMENTS.prefix, SEGMENTS.documents, ())
    ids = torch.tensor([segments.ids])
    whole, last = (door.forward(ids, PineReading(segments), keep) for keep in (0, 1))
    torch.testing.assert_close(last[:, -1], whole[:, -1], atol=1e-5, rtol=0)


def test_every_layer_must_see_the_whole_text() -> None:
    reading = PineReading(SEGMENTS)
    assert reading.suits([LayerKind(HALF), LayerKind(None)]) is None
    reason = reading.suits([LayerKind(HALF, window=16), LayerKind(HALF)])
    assert reason == "layers [0] see only the last 16 tokens"
    assert reading.suits([LayerKind(HALF, refusal="it is odd")]) == "it is odd"


def test_the_report_points_to_the_callers_documents() -> None:
    segments = Segments((1,), ((9,), (3,), (5,)), (2,)).canonical()
    assert PineReading(segments).report() == {
        "pine": {"documents": 3, "canonical_order": [1, 2, 0]}
    }
