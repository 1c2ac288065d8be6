"""How rows are gone through: what nobody reads is left out, what is joint stays together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reads import HALF, vectors
from torch import Tensor

from kvedit.executors import wanted
from kvedit.executors.cases import RankedSet
from kvedit.executors.runs import in_runs
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span

LAYER = Layer(0, HALF, 0.5)


def apart(counts: Sequence[int]) -> list[Rows]:
    """Return rows that look at spans of their own."""
    found, begin = list[Rows](), 0
    for count in counts:
        found.append(Rows(slice(begin, begin + count), begin, (Sight(Span(HALF)),)))
        begin += count
    return found


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=5), data=st.data())
def test_rows_before_the_tail_are_left_out(counts: list[int], data: st.DataObject) -> None:
    total = sum(counts)
    tail = data.draw(st.none() | st.integers(0, total))
    kept = wanted(Layer(0, HALF, 0.5, tail=tail), apart(counts), total)
    tokens = [token for each in kept for token in range(each.tokens.start, each.tokens.stop)]
    assert tokens == list(range(0 if tail is None else total - tail, total))
    assert all(each.place == each.tokens.start for each in kept)


def test_rows_that_rank_jointly_are_kept_whole() -> None:
    _, key, value = vectors(2 + 9 + 1)
    rows = RankedSet(2, (5, 4)).rows(LAYER, key, value)
    kept = wanted(Layer(0, HALF, 0.5, tail=3), rows, 12)
    assert [(each.tokens.start, each.tokens.stop) for each in kept] == [(7, 11), (11, 12)]


def test_rows_whose_weights_are_told_are_all_kept() -> None:
    _, key, value = vectors(2 + 9 + 4)
    *before, last = RankedSet(2, (5, 4)).rows(LAYER, key, value)
    told: list[Tensor] = []
    sights = tuple(
        Ranked(each.spans, each.end, told=told.append) if isinstance(each, Ranked) else each
        for each in last.sights
    )
    kept = wanted(Layer(0, HALF, 0.5, tail=1), [*before, Rows(last.tokens, last.place, sights)], 15)
    assert [each.count for each in kept] == [4]


@pytest.mark.parametrize("tail", [None, 0, 1, 5, 13])
def test_each_run_gets_its_own_queries_and_all_tokens_have_their_place(tail: int | None) -> None:
    """A set's spans are one run; the others stand alone."""
    query, key, value = vectors(2 + 9 + 4)
    rows = RankedSet(2, (5, 4)).rows(LAYER, key, value)
    runs: list[list[int]] = []

    def read(layer: Layer, own: Tensor, run: Sequence[Rows]) -> Tensor:
        runs.append([each.count for each in run])
        assert own.shape[2] == sum(runs[-1])
        return own + 1

    output = in_runs(Layer(0, HALF, 0.5, tail=tail), query, rows, read)
    begin = 0 if tail is None else 15 - tail
    assert torch.equal(output[:, :, begin:], query[:, :, begin:] + 1)
    expected = {None: [[2], [5, 4], [4]], 0: [], 1: [[1]], 5: [[4], [4]], 13: [[5, 4], [4]]}
    assert runs == expected[tail]


def test_one_run_of_everything_is_not_copied() -> None:
    query, key, value = vectors(3)
    rows = PlainReading().rows(LAYER, key, value)
    assert in_runs(LAYER, query, rows, lambda layer, own, run: query) is query
