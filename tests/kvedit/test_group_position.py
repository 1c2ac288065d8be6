"""Group positions against the float64 oracle, in one forward and as source and target grow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Rotary, attention_at, rotary_of, seen_by_groups
from reads import (
    EXECUTORS,
    HALF,
    INV_FREQ,
    Vectors,
    close,
    each_executor,
    each_layer,
    read,
    vectors,
)
from torch import Tensor

from kvedit.executors import Executor
from kvedit.group_position import GroupPositionReading
from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 2e-5
LAYER = Layer(0, HALF, 0.5)
SOURCE, SEEN = 9, (2, 2, 5, 5, 9)


def expected(qkv: Vectors, offset: int, seen: tuple[int, ...], layer: Layer = LAYER) -> Tensor:
    """Return what the oracle reads; behind the list, a target token sees the whole source."""
    target = qkv[0].shape[2] - SOURCE
    counts = [*seen, *[SOURCE] * (target - len(seen))]
    return attention_at(
        qkv,
        seen_by_groups(SOURCE, offset, counts),
        rotary_of(layer.geometry),
        layer.scaling,
        layer.softcap,
    )


@each_executor
@each_layer
@pytest.mark.parametrize("offset", [0, 9, 32])
@pytest.mark.parametrize("seen", [(), SEEN])
def test_one_forward_equals_the_oracle(
    executor: Executor, layer: Layer, dim: int, offset: int, seen: tuple[int, ...]
) -> None:
    qkv, reading = vectors(SOURCE + 7, dim=dim), GroupPositionReading(offset, seen)
    reading.feed(SOURCE)
    found = read(executor, reading, layer, qkv, (SOURCE + 7,))
    close(found[0].double(), expected(qkv, offset, seen, layer), NEAR)


@given(
    reads=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    offset=st.integers(0, 40),
    executor=st.sampled_from(EXECUTORS),
)
@settings(max_examples=40)
def test_a_source_that_grows_between_the_words_equals_one_masked_forward(
    reads: list[int], offset: int, executor: Executor
) -> None:
    """Before each target token some source tokens are read; the first one sees one at least."""
    reads = [reads[0] + 1, *reads[1:]]
    source, target = sum(reads), len(reads)
    query, key, value = qkv = vectors(source + target)
    growing, found, read_so_far = GroupPositionReading(offset), [], 0
    for word, count in enumerate(reads):
        rows = [*range(read_so_far, read_so_far + count), source + word]
        some = (query[:, :, rows], key[:, :, rows], value[:, :, rows])
        growing.feed(count)
        found.append(read(executor, growing, LAYER, some, (len(rows),))[:, :, -1:])
        read_so_far += count
    seen = [sum(reads[: word + 1]) for word in range(target)]
    masked = attention_at(qkv, seen_by_groups(source, offset, seen), Rotary(INV_FREQ), 0.5)
    close(torch.cat(found, 2)[0].double(), masked[:, source:], NEAR)


@each_executor
def test_a_token_that_is_fed_again_takes_its_own_place(executor: Executor) -> None:
    """As the last one before a boundary, once more of the source is read."""
    query, key, value = qkv = vectors(SOURCE + 3)
    reading = GroupPositionReading(32)
    reading.feed(SOURCE - 2)
    early = [*range(SOURCE - 2), SOURCE, SOURCE + 1]
    read(executor, reading, LAYER, tuple(x[:, :, early] for x in qkv), (len(early),))  # type: ignore[arg-type]
    reading.feed(2)
    late = slice(SOURCE - 2, SOURCE)
    read(executor, reading, LAYER, (query[:, :, late], key[:, :, late], value[:, :, late]), (2,))
    reading.feed(0)
    reading.retract(1)
    again = slice(SOURCE + 1, SOURCE + 3)
    rest = (query[:, :, again], key[:, :, again], value[:, :, again])
    found = read(executor, reading, LAYER, rest, (1, 1))
    truth = expected(qkv, 32, (SOURCE - 2,))
    close(found[0].double(), truth[:, SOURCE + 1 :], NEAR)
    assert reading.report() == {"group-positions": {"source": SOURCE, "target": 3}}


@each_executor
def test_with_the_source_read_and_its_length_as_offset_it_is_the_plain_reading(
    executor: Executor,
) -> None:
    qkv, reading = vectors(SOURCE + 6), GroupPositionReading(SOURCE)
    reading.feed(SOURCE)
    first = read(executor, reading, LAYER, tuple(x[:, :, :12] for x in qkv), (12,))  # type: ignore[arg-type]
    reading.feed(0)
    rest = read(executor, reading, LAYER, tuple(x[:, :, 12:] for x in qkv), (1, 2))  # type: ignore[arg-type]
    plain = read(executor, PlainReading(), LAYER, qkv, (12, 1, 2))
    close(torch.cat((first, rest), 2), plain, NEAR)


@each_executor
@pytest.mark.parametrize("tail", [1, 3])
def test_the_last_rows_see_as_much_of_the_source_as_is_theirs(
    executor: Executor, tail: int
) -> None:
    """Behind a prompt's last layer only some rows are computed."""
    qkv, found = vectors(SOURCE + 5), []
    for some in (None, tail):
        reading = GroupPositionReading(32, SEEN)
        reading.feed(SOURCE)
        layer = Layer(0, HALF, 0.5, tail=some)
        found.append(read(executor, reading, layer, qkv, (SOURCE + 5,))[:, :, -tail:])
    close(found[0], found[1], NEAR)


@each_executor
def test_a_target_that_sees_nothing_of_the_source_reads_itself(executor: Executor) -> None:
    qkv, reading = vectors(SOURCE + 4), GroupPositionReading(0, (0,) * 4)
    reading.feed(SOURCE)
    found = read(executor, reading, LAYER, qkv, (SOURCE + 4,))
    close(found[0].double(), expected(qkv, 0, (0,) * 4), NEAR)


def test_the_two_groups_need_layers_that_see_the_whole_text() -> None:
    reading = GroupPositionReading(0)
    assert reading.suits([LayerKind(HALF), LayerKind(None)]) is None
    reason = reading.suits([LayerKind(HALF), LayerKind(HALF, window=8)])
    assert reason == "layers [1] see only the last 8 tokens"
    assert reading.suits([LayerKind(HALF, refusal="it is odd")]) == "it is odd"


def test_one_forward_of_everything() -> None:
    assert GroupPositionReading(0).pieces(5000) == (range(5000),)
    assert GroupPositionReading(0).report() == {"group-positions": {"source": 0, "target": 0}}
