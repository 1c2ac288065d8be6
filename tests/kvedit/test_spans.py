"""Spans and sets of them, against plain lists of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reads import HALF, INTERLEAVED, close, vectors
from torch import Tensor

from kvedit.pages import Pages
from kvedit.rotary import RotaryGeometry, turn
from kvedit.spans import Pair, Span, SpanSet

pytestmark = pytest.mark.usefixtures("one_thread")

GEOMETRIES = (HALF, INTERLEAVED, None)
geometries = st.sampled_from(GEOMETRIES)
NEAR = 1e-5


def numbered(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).float().view(1, 1, count, 1).expand(2, 3, count, 4)


def test_a_span_holds_what_was_appended_in_order() -> None:
    span, first = Span(None), 0
    for count in (5, 0, 1, 70, 1, 300):
        span.append(numbered(first, count), -numbered(first, count))
        first += count
    assert span.length == span.held == first
    assert torch.equal(span.keys, numbered(0, first))
    assert torch.equal(span.values, -numbered(0, first))


def test_growing_token_by_token_moves_the_cache_a_logarithmic_number_of_times() -> None:
    span, places = Span(None), set()
    for token in range(2000):
        span.append(numbered(token, 1), numbered(token, 1))
        places.add(span.keys.data_ptr())
    assert len(places) <= 6  # 64, 128, .. 2048


def test_a_ring_holds_as_much_as_it_did_at_first() -> None:
    span = Span(None)
    span.append(numbered(0, 50), numbered(0, 50))
    sizes, moves, place = set(), 0, span.keys.data_ptr()
    for token in range(50, 5000):
        span.drop(1)
        span.append(numbered(token, 1), numbered(token, 1))
        begin = span.keys.data_ptr()
        moves += begin != place + 4 * 4  # one token further on in the same buffer
        place = begin
        sizes.add(span.size)
    assert len(sizes) <= 2
    assert max(sizes) <= 2 * 2 * 50 * 2 * 3 * 4 * 4  # keys and values, twice what is held
    assert moves < 5000 / 25
    assert (span.first, span.length) == (4950, 5000)
    assert torch.equal(span.keys, numbered(4950, 50))


class Known:
    """A span, and the tokens that it must hold: raw keys and values by place in the frame."""

    def __init__(self, span: Span, tokens: dict[int, Pair]) -> None:
        self.span, self.tokens = span, tokens

    def check(self) -> None:
        """Compare what is held."""
        span, places = self.span, sorted(self.tokens)
        assert span.held == len(places)
        if not places:
            return
        assert places == list(range(span.first, span.length))
        keys = torch.cat([self.tokens[place][0] for place in places], 2)
        values = torch.cat([self.tokens[place][1] for place in places], 2)
        close(span.keys, turn(span.geometry, keys, torch.tensor(places)), NEAR)
        assert torch.equal(span.values, values)


@dataclass
class Program:
    """Spans that come from one another, and what is done to them as drawn."""

    data: st.DataObject
    known: list[Known]
    tokens: int = 0

    def draw(self, least: int, most: int) -> int:
        return self.data.draw(st.integers(least, most))

    def step(self) -> None:
        """Do one thing to one of the spans."""
        one = self.known[self.draw(0, len(self.known) - 1)]
        names = ("append", "drop", "retract", "cut", "claim", "look")
        getattr(self, self.data.draw(st.sampled_from(names)))(one)

    def fresh(self, count: int) -> Pair:
        self.tokens += 1
        _, key, value = vectors(count, self.tokens, heads=(1, 2))
        return key, value

    def append(self, one: Known) -> None:
        count = self.draw(0, 70)
        key, value = self.fresh(count)
        for token in range(count):
            pair = key[:, :, token : token + 1], value[:, :, token : token + 1]
            one.tokens[one.span.length + token] = pair
        one.span.append(key, value)

    def drop(self, one: Known) -> None:
        count = self.draw(0, one.span.held)
        for place in range(one.span.first, one.span.first + count):
            del one.tokens[place]
        one.span.drop(count)

    def retract(self, one: Known) -> None:
        count = self.draw(0, one.span.held)
        for place in range(one.span.length - count, one.span.length):
            del one.tokens[place]
        one.span.retract(count)

    def cut(self, one: Known) -> None:
        begin = self.draw(one.span.first, one.span.length)
        end = self.draw(begin, one.span.length)
        tokens = {place: one.tokens[place] for place in range(begin, end)}
        self.known.append(Known(one.span.cut(begin, end), tokens))

    def claim(self, one: Known) -> None:
        """Do what an executor does on its way: write what is not there yet."""
        if not one.span.held:
            return
        span = one.span
        keys, values, begin, fresh = span.claim(self.draw(0, 4))
        if fresh is not None:
            count = fresh[0].shape[2]
            rows = slice(begin + span.held - count, begin + span.held)
            where = torch.arange(span.length - count, span.length)
            keys[:, :, rows] = turn(span.geometry, fresh[0], where)
            values[:, :, rows] = fresh[1]

    def look(self, one: Known) -> None:
        one.check()


@given(geometry=geometries, data=st.data(), steps=st.integers(1, 25))
@settings(max_examples=80)
def test_any_program_leaves_all_spans_as_lists_would_be(
    geometry: RotaryGeometry | None, data: st.DataObject, steps: int
) -> None:
    """Cuts and what they are cut from never write where another reads."""
    program = Program(data, [Known(Span(geometry), {})])
    for _ in range(steps):
        program.step()
    for each in program.known:
        each.check()


@pytest.mark.parametrize("who", ["the cut", "the original"])
def test_who_retracts_does_not_write_over_what_the_other_reads(who: str) -> None:
    span = Span(None)
    span.append(numbered(0, 5), numbered(0, 5))
    part = span.cut(1, 5)
    one, other = (part, span) if who == "the cut" else (span, part)
    before = other.keys.clone()
    one.retract(2)
    one.append(numbered(90, 2), numbered(90, 2))
    assert one.keys[0, 0, -2:, 0].tolist() == [90, 91]
    assert torch.equal(other.keys, before)


def test_what_is_held_for_somebody_is_not_written_over() -> None:
    keys, values = numbered(0, 5).contiguous(), numbered(0, 5).contiguous()
    span = Span.holding(None, keys, values)
    span.retract(1)
    span.append(numbered(90, 1), numbered(90, 1))
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4]
    assert span.keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 90]


@given(
    geometry=geometries,
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    looks=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_when_it_is_read_changes_nothing(
    geometry: RotaryGeometry | None, counts: list[int], looks: list[bool]
) -> None:
    """Nothing is turned twice, or never."""
    _, key, value = vectors(sum(counts))
    once, lazily = Span(geometry), Span(geometry)
    once.append(key, value)
    pieces = zip(key.split(counts, 2), value.split(counts, 2), looks, strict=False)
    for some_keys, some_values, looked in pieces:
        lazily.append(some_keys, some_values)
        if looked:
            assert lazily.keys.shape[2] == lazily.held
    close(lazily.keys, once.keys, NEAR)
    assert torch.equal(lazily.values, once.values)
    assert torch.equal(once.keys, once.keys)  # a second look turns nothing


def test_what_is_held_may_begin_later() -> None:
    _, key, value = vectors(9)
    whole = Span(HALF)
    whole.append(key, value)
    span = Span.holding(HALF, whole.keys[:, :, 4:7], value[:, :, 4:7], 4)
    assert (span.first, span.length) == (4, 7)
    span.append(key[:, :, 7:], value[:, :, 7:])
    close(span.keys, whole.keys[:, :, 4:], NEAR)


def test_an_empty_span_can_drop_and_retract_nothing() -> None:
    span = Span(None)
    span.drop(0)
    span.retract(0)
    assert span.held == 0
    assert span.size == 0


@given(geometry=geometries, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_set_holds_each_span_in_its_own_frame(
    geometry: RotaryGeometry | None, sizes: list[int]
) -> None:
    _, key, value = vectors(sum(sizes))
    spans = SpanSet(Pages(sizes, torch.device("cpu")), geometry)
    spans.fill(key, value)
    fresh = [spans.fresh]
    parts = zip(key.split(sizes, 2), value.split(sizes, 2), strict=True)
    for index, (keys, values) in enumerate(parts):
        alone, found = Span(geometry), spans.span(index)
        alone.append(keys, values)
        close(found.keys, alone.keys, NEAR)
        assert torch.equal(found.values, values)
        assert torch.equal(spans.raw[:, :, spans.pages.bounds[index]][:, :, : sizes[index]], keys)
    assert [*fresh, spans.fresh] == [True, False]
    assert torch.equal(spans.framed, spans.framed)


def test_a_set_counts_the_bytes_of_raw_keys_too() -> None:
    _, key, value = vectors(10)
    spans = SpanSet(Pages([5, 5], key.device), HALF)
    spans.fill(key, value)
    assert spans.size == 2 * key.nbytes + value.nbytes
