"""The plain reading against the float64 oracle, whatever the pieces and whoever reads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import attention_at, rotary_of, seen_in_window
from reads import EXECUTORS, HALF, close, each_executor, each_layer, read, vectors

from kvedit.executors import Executor
from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind
from kvedit.rotary import turn

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 1e-5


@each_executor
@each_layer
@pytest.mark.parametrize("window", [None, 4])
def test_plain_in_pieces_equals_the_oracle_at_once(
    executor: Executor, layer: Layer, dim: int, window: int | None
) -> None:
    qkv = vectors(14, dim=dim)
    expected = attention_at(
        qkv,
        seen_in_window(window),
        rotary_of(layer.geometry),
        layer.scaling,
        layer.softcap,
    )
    windowed = Layer(0, layer.geometry, layer.scaling, layer.softcap, window=window)
    found = read(executor, PlainReading(), windowed, qkv, (6, 3, 1, 3, 1))
    close(found[0].double(), expected, NEAR)


@given(
    forwards=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    window=st.none() | st.integers(1, 12),
    executor=st.sampled_from(EXECUTORS),
)
@settings(max_examples=30)
def test_the_pieces_change_nothing(
    forwards: list[int], window: int | None, executor: Executor
) -> None:
    layer, qkv = Layer(0, HALF, 0.5, window=window), vectors(sum(forwards))
    once = read(executor, PlainReading(), layer, qkv, [sum(forwards)])
    found = read(executor, PlainReading(), layer, qkv, forwards)
    close(found, once, NEAR)


@each_executor
def test_rows_of_a_batch_do_not_touch_each_other(executor: Executor) -> None:
    layer, both = Layer(0, HALF, 0.5), vectors(9, batch=2)
    found = read(executor, PlainReading(), layer, both, (6, 1, 2))
    for row in range(2):
        query, key, value = (each[row : row + 1] for each in both)
        alone = read(executor, PlainReading(), layer, (query, key, value), (6, 1, 2))
        close(found[row : row + 1], alone, NEAR)


@each_executor
def test_layers_do_not_share_their_caches(executor: Executor) -> None:
    _, x, _ = vectors(1, heads=(2, 2))
    reading = PlainReading()
    first, second = Layer(0, HALF, 1.0), Layer(1, HALF, 1.0)
    one = executor.read(first, x, reading.rows(first, x, x))
    other = executor.read(second, x, reading.rows(second, x, -x))
    torch.testing.assert_close(one, -other)


@each_executor
@pytest.mark.parametrize(("window", "kept"), [(None, 6), (4, 6), (4, 3)])
def test_what_is_held_already_goes_on(executor: Executor, window: int | None, kept: int) -> None:
    """All of it, or what a window still shows of it: the next token sees the last three."""
    layer, qkv = Layer(0, HALF, 0.5, window=window), vectors(9)
    once = read(executor, PlainReading(), layer, qkv, (6, 3))
    query, key, value = qkv
    turned, some = turn(HALF, key[:, :, :6], torch.arange(6)), slice(6 - kept, 6)
    reading = PlainReading.holding(6, {0: (turned[:, :, some], value[:, :, some])}, (HALF,))
    rest = (query[:, :, 6:], key[:, :, 6:], value[:, :, 6:])
    close(read(executor, reading, layer, rest, (3,)), once[:, :, 6:], NEAR)


def test_it_suits_windows_and_no_layer_that_is_refused() -> None:
    window, refused = LayerKind(HALF, window=8), LayerKind(HALF, refusal="it is odd")
    assert PlainReading().suits([LayerKind(None), window]) is None
    assert PlainReading().suits([window, refused]) == "it is odd"
