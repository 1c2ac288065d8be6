"""A reading that goes back reads what follows as if it had never read on; how far, it says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Rotary, attention_at, seen_by_lambda
from reads import EXECUTORS, HALF, INV_FREQ, close, read, vectors

from kvedit.executors import Executor
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading
from kvedit.reading import Layer, Rewinding

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 2e-5
LAYER = Layer(0, HALF, 0.5)
chunks = st.lists(st.integers(1, 12), min_size=1, max_size=5)
each_executor = st.sampled_from(EXECUTORS)


@given(
    first=st.integers(0, 8),
    window=st.integers(1, 12),
    slack=st.integers(0, 12),
    before=chunks,
    back=st.integers(0, 60),
    after=chunks,
    executor=each_executor,
)
@settings(max_examples=60)
def test_what_follows_is_read_as_the_oracle_reads_it(
    first: int,
    window: int,
    slack: int,
    before: list[int],
    back: int,
    after: list[int],
    executor: Executor,
) -> None:
    reading = LmInfiniteReading(first, window, window, slack=slack)
    old = vectors(sum(before), heads=(2, 1))
    read(executor, reading, LAYER, old, before)
    assert reading.back_to <= max(sum(before) - slack, 0)
    length = max(sum(before) - back, reading.back_to)
    reading.rewind(length)
    assert reading.length == length
    new = vectors(sum(after), seed=1, heads=(2, 1))
    found = read(executor, reading, LAYER, new, after)
    query, key, value = (torch.cat((o[:, :, :length], n), 2) for o, n in zip(old, new, strict=True))
    seen = seen_by_lambda(first, window, window)
    expected = attention_at((query, key, value), seen, Rotary(INV_FREQ), 0.5)
    close(found[0].double(), expected[:, length:], NEAR)


@given(
    slack=st.integers(0, 12),
    before=chunks,
    back=st.integers(0, 60),
    after=chunks,
    executor=each_executor,
)
@settings(max_examples=60)
def test_layers_that_are_windows_go_back_as_far(
    slack: int, before: list[int], back: int, after: list[int], executor: Executor
) -> None:
    layer = Layer(1, HALF, 0.5, window=6)
    reading = LmInfiniteReading(4, 16, 16, slack=slack)
    old = vectors(sum(before))
    read(executor, reading, layer, old, before)
    assert reading.back_to <= max(sum(before) - slack, 0)
    length = max(sum(before) - back, reading.back_to)
    reading.rewind(length)
    new = vectors(sum(after), seed=1)
    found = read(executor, reading, layer, new, after)
    whole = [torch.cat((o[:, :, :length], n), 2) for o, n in zip(old, new, strict=True)]
    qkv = (whole[0], whole[1], whole[2])
    fresh = read(executor, PlainReading(), layer, qkv, (length + sum(after),))
    close(found, fresh[:, :, length:], NEAR)


def test_it_goes_back_no_further_than_it_holds() -> None:
    reading = LmInfiniteReading(2, 8, 8, slack=4)
    read(EXECUTORS[0], reading, LAYER, vectors(40, heads=(2, 1)), (30, *[1] * 10))
    assert (reading.length, reading.back_to) == (40, 35)  # the last drop came before the last token
    with pytest.raises(AssertionError, match="still holds"):
        reading.rewind(34)


def test_its_memory_is_what_its_buffers_take_and_is_bounded() -> None:
    reading = LmInfiniteReading(2, 8, 8, slack=4)
    assert reading.size == 0
    sizes = set()
    for step in range(400):
        read(EXECUTORS[0], reading, LAYER, vectors(1, seed=step, heads=(2, 1)), (1,))
        sizes.add(reading.size)
    pairs = [span.size for pair in reading._spans.values() for span in pair]
    assert reading.size == sum(pairs) == max(sizes)
    assert isinstance(reading, Rewinding)
