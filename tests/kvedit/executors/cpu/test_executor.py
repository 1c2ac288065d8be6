"""What the executor of a CPU keeps between reads, and many sequences that decode at once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reads import HALF, Looker, vectors
from scenes import Scene, scenes
from torch import Tensor

from kvedit.executors.cases import RankedSet
from kvedit.executors.cpu import few
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.cpu.loops import MOST_ROWS
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.pages import Pages
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span, SpanSet
from kvedit.together import Alone, Together
from kvedit.visibility import causal


def test_a_set_is_forgotten_with_its_pages() -> None:
    """A cut that held the pages would keep them, and so itself, for ever."""
    executor, geometry = CpuExecutor(), RotaryGeometry(100.0 ** (-torch.arange(4).float() / 4))
    spans = SpanSet(Pages((3, 4), torch.device("cpu")), geometry)
    spans.fill(torch.randn(1, 1, 7, 8), torch.randn(1, 1, 7, 8))
    own = Span(geometry)
    own.append(torch.randn(1, 1, 2, 8), torch.randn(1, 1, 2, 8))
    rows = [Rows(slice(0, 2), 7, (Ranked(spans, 7), Sight(own, 7, causal)))]
    executor.read(Layer(0, geometry, 0.5), torch.randn(1, 2, 2, 8), rows)
    assert len(executor._cuts) == 1
    del spans, rows
    gc.collect()
    assert not executor._cuts


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYER = Layer(0, HALF, 0.4)


def cast() -> list[tuple[int, Looker]]:
    """Return readings that decode, and the tokens that each has read before."""
    return [
        (3, PlainReading()),
        (40, LmInfiniteReading(4, 16, 16)),
        (600, PlainReading()),
        (3 + 45 + 2, RankedSet(3, (5, 9, 1, 30))),
        (300 + 260, RankedSet(0, (300, 260))),
        (1, PlainReading()),
    ]


def started(dtype: torch.dtype, layer: Layer = LAYER) -> list[Looker]:
    """Return them after they have read their prompts."""
    readings = []
    for place, (count, reading) in enumerate(cast()):
        query, key, value = (each.to(dtype) for each in vectors(count, place))
        CpuExecutor().read(layer, query, reading.rows(layer, key, value))
        readings.append(reading)
    return readings


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the sequences of each call of the loop."""
    made, run = list[int](), few.Step.run

    def watched(self: few.Step) -> None:
        made.append(len(self._tasks))
        run(self)

    monkeypatch.setattr(few.Step, "run", watched)
    return made


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_company_changes_no_bit(dtype: torch.dtype, threads: int, calls: list[int]) -> None:
    """One call reads for all that decode; for each, whatever its reading, what it reads alone."""
    before, (side, alone) = torch.get_num_threads(), (started(dtype) for _ in range(2))
    torch.set_num_threads(threads)
    try:
        for step in range(3):
            qkv = [each.to(dtype) for each in vectors(len(side), 90 + step)]
            calls.clear()
            together = Together(side, [1] * len(side), CpuExecutor())  # type: ignore[arg-type]
            found = together.read(LAYER, *qkv)
            assert calls == [len(side)]
            assert not together.failed
            for index, reading in enumerate(alone):
                piece = (each[:, :, index : index + 1] for each in qkv)
                expected = Alone(reading, CpuExecutor()).read(LAYER, *piece)  # type: ignore[arg-type]
                assert torch.equal(found[:, :, index : index + 1], expected)
    finally:
        torch.set_num_threads(before)


@given(chosen=st.lists(scenes(MOST_ROWS, still=True), min_size=2, max_size=4))
@settings(max_examples=30)
def test_any_rows_are_read_beside_others_as_alone(chosen: list[Scene]) -> None:
    layer, dim = chosen[0].layer, chosen[0].dim
    own = [replace(each, layer=layer, dim=dim) for each in chosen]
    ends = list(accumulate((each.count for each in own), initial=0))
    tokens = [slice(*both) for both in pairwise(ends)]
    query = torch.cat([each.query for each in own], 2)
    output = torch.full_like(query, torch.nan)
    rows = {index: [each.rows()] for index, each in enumerate(own)}
    fitting = {index for index, (each,) in rows.items() if few.fits(query, each)}
    done = CpuExecutor().step(layer, query, rows, tokens, output)
    assert dict(done) == dict.fromkeys(sorted(fitting))
    for index, each in enumerate(own):
        found = output[:, :, tokens[index]]
        if index in fitting:
            assert torch.equal(found, CpuExecutor().read(layer, each.query, [each.rows()]))
        else:
            assert found.isnan().all()


def _refuse(weight: Tensor) -> None:
    raise RuntimeError("planted")


@pytest.mark.parametrize("told", [None, _refuse])
def test_one_that_fails_is_named_and_the_others_are_read(
    told: Callable[[Tensor], None] | None,
) -> None:
    """Whether it cannot be prepared, or does not take what it is told."""
    layer, readings = LAYER, [PlainReading(), PlainReading()]
    query, key, value = vectors(3)
    rows: dict[int, Sequence[Rows]] = {
        place: reading.rows(layer, key[:, :, place : place + 1], value[:, :, place : place + 1])
        for place, reading in ((0, readings[0]), (2, readings[1]))
    }
    spans = SpanSet(Pages([2], key.device), HALF)
    if told is not None:
        spans.fill(key[:, :, :2], value[:, :, :2])
    own = Span(HALF)
    own.append(key[:, :, 1:2], value[:, :, 1:2])
    sights = (Ranked(spans, 2, told=told), Sight(own, 2, causal))
    rows[1] = [Rows(slice(0, 1), 2, sights)]
    output = torch.full_like(query, torch.nan)
    done = CpuExecutor().step(layer, query, rows, [slice(i, i + 1) for i in range(3)], output)
    assert [index for index, error in done.items() if error is not None] == [1]
    assert set(done) == {0, 1, 2}
    assert torch.equal(output[:, :, [0, 2]], value[:, [0, 0, 1, 1]][:, :, [0, 2]])


def test_longer_rows_in_a_step_are_left_to_others() -> None:
    query, key, value = vectors(MOST_ROWS + 2)
    rows = {
        0: PlainReading().rows(LAYER, key[:, :, :-1], value[:, :, :-1]),
        1: PlainReading().rows(LAYER, key[:, :, -1:], value[:, :, -1:]),
    }
    tokens = [slice(0, MOST_ROWS + 1), slice(MOST_ROWS + 1, MOST_ROWS + 2)]
    assert CpuExecutor().step(LAYER, query, rows, tokens, torch.empty_like(query)) == {1: None}
