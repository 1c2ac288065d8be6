"""LM-Infinite against the float64 oracle; and a text that has no end costs no more for it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Rotary, attention_at, rotary_of, seen_by_lambda, unmoved
from reads import EXECUTORS, HALF, INV_FREQ, close, each_executor, each_layer, read, vectors
from torch import Tensor

from kvedit.executors import Executor
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind
from kvedit.rotary import TABLE_REACH
from kvedit.sight import Sight
from kvedit.spans import Span

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 2e-5
LAYER = Layer(0, HALF, 0.5)


@each_executor
@each_layer
@pytest.mark.parametrize("forwards", [(40,), (7,) * 5 + (5,), (30, *[1] * 10)])
def test_it_equals_the_oracle(
    executor: Executor, layer: Layer, dim: int, forwards: tuple[int, ...]
) -> None:
    qkv = vectors(40, dim=dim)
    expected = attention_at(
        qkv,
        seen_by_lambda(3, 8, 8),
        rotary_of(layer.geometry),
        layer.scaling,
        layer.softcap,
    )
    found = read(executor, LmInfiniteReading(3, 8, 8), layer, qkv, forwards)
    close(found[0].double(), expected, NEAR)


@given(
    first=st.integers(0, 12),
    window=st.integers(1, 12),
    cap=st.integers(0, 20),
    forwards=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    executor=st.sampled_from(EXECUTORS),
)
@settings(max_examples=40)
def test_any_numbers_and_chunks_equal_the_oracle(
    first: int, window: int, cap: int, forwards: list[int], executor: Executor
) -> None:
    qkv = vectors(sum(forwards), heads=(2, 1))
    seen = seen_by_lambda(first, window, cap)
    expected = attention_at(qkv, seen, Rotary(INV_FREQ), 0.5)
    found = read(executor, LmInfiniteReading(first, window, cap), LAYER, qkv, forwards)
    close(found[0].double(), expected, NEAR)


@each_executor
@pytest.mark.parametrize("forwards", [(16,), (5, 5, 6), (9, *[1] * 7)])
def test_up_to_the_window_it_is_the_plain_reading_to_the_last_bit(
    executor: Executor, forwards: tuple[int, ...]
) -> None:
    qkv = vectors(16)
    found = read(executor, LmInfiniteReading(4, 16, 16), LAYER, qkv, forwards)
    assert torch.equal(found, read(executor, PlainReading(), LAYER, qkv, forwards))


@each_executor
def test_the_cap_is_where_first_tokens_appear(executor: Executor) -> None:
    qkv = vectors(30)
    one, other = (read(executor, LmInfiniteReading(2, 8, cap), LAYER, qkv, (30,)) for cap in (8, 7))
    assert torch.equal(one[:, :, :8], other[:, :, :8])
    assert (one[:, :, 8:] - other[:, :, 8:]).abs().amax(-1).min() > 1e-4


def spans(reading: LmInfiniteReading, key: Tensor, value: Tensor) -> list[Span]:
    """Return what a decode step looks at."""
    (rows,) = reading.rows(LAYER, key, value)
    return [sight.span for sight in rows.sights if isinstance(sight, Sight)]


@torch.inference_mode()
def test_memory_is_bounded_whatever_the_length() -> None:
    executor, reading, sizes = CpuExecutor(), LmInfiniteReading(4, 32, 32), set()
    query, key, value = vectors(64, heads=(2, 1))
    executor.read(LAYER, query[:, :, :64], reading.rows(LAYER, key, value))
    steps = list(zip(*(each.split(1, 2) for each in (query, key, value)), strict=True))
    held = spans(reading, *steps[0][1:])
    before = sum(each.size for each in held)
    for step in range(20_000):
        query, key, value = steps[step % 64]
        rows = reading.rows(LAYER, key, value)
        executor.read(LAYER, query, rows)
        if step % 97 == 0:
            sizes.add(sum(each.size for each in held))
    assert max(sizes) <= before
    assert held[0].held == 32
    assert reading.report() == {"lm-infinite": {"out_of_sight": 64 + 1 + 20_000 - 32 - 4}}


@each_executor
@pytest.mark.parametrize(
    ("place", "allowed"),
    # before the table ends angles are rounded as the model's own are; beyond they are exact
    [(TABLE_REACH - 20, 2e-3), (TABLE_REACH + 1000, 1e-4), (1 << 24, 1e-4)],
)
@torch.inference_mode()
def test_angles_are_exact_far_out(executor: Executor, place: int, allowed: float) -> None:
    """What rows read at a far place is what they read nearby: only distances count."""
    reading, qkv = LmInfiniteReading(2, 24, 24), vectors(60, scale=2.0)
    near = read(executor, LmInfiniteReading(2, 24, 24), LAYER, qkv, (40, *[1] * 20))
    _, key, value = qkv
    reading._spans[0] = Span(None), Span(HALF, place)  # as after so many tokens
    reading._spans[0][0].append(key[:, :, :2], value[:, :, :2])
    found = read(executor, reading, LAYER, qkv, (40, *[1] * 20))
    # the first rows see first tokens here, and none that have left the window there
    torch.testing.assert_close(found[:, :, 26:], near[:, :, 26:], atol=allowed, rtol=0)
    expected = attention_at(qkv, seen_by_lambda(2, 24, 24), Rotary(INV_FREQ), 0.5)
    torch.testing.assert_close(found[0, :, 26:].double(), expected[:, 26:], atol=allowed, rtol=0)


@each_executor
def test_layers_that_are_windows_are_left_alone(executor: Executor) -> None:
    qkv, layer = vectors(30), Layer(1, HALF, 0.5, window=8)
    found = read(executor, LmInfiniteReading(4, 16, 16), layer, qkv, (20, 9, 1))
    assert torch.equal(found, read(executor, PlainReading(), layer, qkv, (20, 9, 1)))


def test_a_prompt_is_read_in_chunks() -> None:
    reading = LmInfiniteReading(4, 16, 16, chunk=100)
    assert reading.pieces(100) == (range(100),)
    assert reading.pieces(250) == (range(100), range(100, 200), range(200, 250))


def test_what_is_out_of_sight_is_reported() -> None:
    reading = LmInfiniteReading(4, 16, 16)
    assert reading.report() == {"lm-infinite": {"out_of_sight": 0}}
    read(EXECUTORS[0], reading, LAYER, vectors(30), (30,))
    assert reading.report() == {"lm-infinite": {"out_of_sight": 10}}


def test_it_suits_all_layers_but_those_that_are_refused() -> None:
    reading = LmInfiniteReading(4, 16, 16)
    kinds = [LayerKind(HALF), LayerKind(None), LayerKind(HALF, window=8)]
    assert reading.suits(kinds) is None
    assert reading.suits([*kinds, LayerKind(HALF, refusal="it is odd")]) == "it is odd"


def test_the_oracle_moves_nothing_without_positions() -> None:
    assert rotary_of(None) is unmoved
