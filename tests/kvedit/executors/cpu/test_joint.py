"""Spans that rank each other: what the specification reads, in groups or alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reads import HALF, INTERLEAVED, SCALING, close, read, vectors
from scenes import Look, geometries
from torch import Tensor

from kvedit import rotary
from kvedit.executors.cases import RankedSet
from kvedit.executors.cpu import groups, joint
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.cpu.groups import Group
from kvedit.executors.cpu.pieces import Cut
from kvedit.executors.runs import whole_set
from kvedit.executors.torch import TorchExecutor
from kvedit.pages import Pages
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Ranked, Rows, Sight, Sights
from kvedit.spans import SpanSet
from kvedit.visibility import first

NEAR = 4e-5
LAYER = Layer(0, HALF, SCALING)
LAYERS = [
    pytest.param(LAYER, id="half"),
    pytest.param(Layer(0, INTERLEAVED, SCALING), id="interleaved"),
    pytest.param(Layer(0, None, SCALING), id="no positions"),
    pytest.param(Layer(0, HALF, SCALING, 3.0), id="capped"),
]
CASES = [
    pytest.param(5, (40, 40, 40), id="equal spans"),
    pytest.param(0, (7, 90, 1, 33, 34), id="unequal spans, padded"),
    pytest.param(3, (300, 290), id="two long ones, cut short"),
    pytest.param(2, (270, 3, 600, 5), id="long ones between short ones"),
    pytest.param(70, (9,), id="one span after a long prefix"),
]


def both(prefix: int, sizes: Sequence[int], layer: Layer, dim: int = 12) -> list[Tensor]:
    """Return what a prefix and a set read, by the executor and as specified."""
    qkv = vectors(prefix + sum(sizes), 1, dim=dim, scale=1.4)
    forwards = (prefix + sum(sizes),)
    return [
        read(each, RankedSet(prefix, sizes), layer, qkv, forwards)
        for each in (CpuExecutor(), TorchExecutor())
    ]


def each_alone(pages: Pages, cut: Cut, per_span: int) -> list[Group]:
    """Stand in for `joint._groups`."""
    return groups.groups(pages.sizes, 1, 1)


@pytest.mark.parametrize("how", ["in groups", "each alone", "row by row"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("prefix", "sizes"), CASES)
def test_a_set_is_read_as_specified(
    prefix: int, sizes: tuple[int, ...], layer: Layer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "each alone":  # then long spans come last in their own rows
        monkeypatch.setattr(joint, "_groups", each_alone)
    if how == "row by row":
        monkeypatch.setattr(groups, "BUDGET", 1)
    found, expected = both(prefix, sizes, layer)
    close(found, expected, NEAR)


@pytest.mark.parametrize("fast", [False, True], ids=["emulated", "fast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("prefix", "sizes"), CASES)
def test_half_types_are_off_by_a_few_roundings_of_the_output(
    prefix: int,
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents are sorted by float32, whatever the machine multiplies fast: the same places."""
    monkeypatch.setattr(joint, "_fast_bfloat", lambda: fast)
    qkv = vectors(prefix + sum(sizes), 1, dim=12, scale=1.4)
    query, key, value = (each.to(dtype) for each in qkv)
    found = read(
        CpuExecutor(), RankedSet(prefix, sizes), LAYER, (query, key, value), (len(key[0, 0]),)
    )
    rows = RankedSet(prefix, sizes).rows(LAYER, key, value)
    expected = TorchExecutor().read(LAYER, query.float(), rows)
    assert found.dtype == dtype
    allowed = 2 * torch.finfo(dtype).eps * float(expected.abs().max())
    close(found.float(), expected, allowed)


@given(
    prefix=st.integers(0, 20),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    geometry=geometries,
    softcap=st.sampled_from([None, 1.5]),
    dim=st.sampled_from([8, 12]),
)
@settings(max_examples=40)
def test_any_set_is_read_as_specified(
    prefix: int, sizes: list[int], geometry: RotaryGeometry | None, softcap: float | None, dim: int
) -> None:
    found, expected = both(prefix, sizes, Layer(0, geometry, 0.5, softcap), dim)
    close(found, expected, NEAR)


def run(looks: Sequence[Look], sizes: Sequence[int], end: int) -> list[Rows]:
    """Return the rows of a set's spans, which see some other spans too."""
    spans = SpanSet(Pages(sizes, torch.device("cpu")), HALF)
    _, key, value = vectors(sum(sizes), 5, dim=8)
    spans.fill(key, value)
    others = [look.sight(LAYER, 8, 1, 10 + place) for place, look in enumerate(looks)]
    found, begin = list[Rows](), 0
    for own, size in enumerate(sizes):
        sights: Sights = (*others, Ranked(spans, end, own))
        found.append(Rows(slice(begin, begin + size), end - size, sights))
        begin += size
    return found


still = st.builds(
    Look,
    st.just("still"),
    st.just("everything"),
    st.booleans(),
    st.integers(1, 30),
    st.integers(0, 1),
    st.integers(0, 5),
    st.integers(-20, 60) | st.just(0),
    st.just(1),
)


@given(
    looks=st.lists(still, max_size=3),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    end=st.integers(100, 120) | st.just(20_000),
)
@settings(max_examples=40)
def test_spans_that_stand_still_are_seen_from_all_of_them(
    looks: list[Look], sizes: list[int], end: int
) -> None:
    query = vectors(sum(sizes), 4)[0]
    assert whole_set(run(looks, sizes, end))
    found = CpuExecutor().read(LAYER, query, run(looks, sizes, end))
    expected = TorchExecutor().read(LAYER, query, run(looks, sizes, end))
    close(found, expected, NEAR)


@pytest.mark.parametrize("fault", ["one span less", "seen in part", "away", "seen by one alone"])
def test_other_rows_around_a_set_are_read_as_specified(fault: str) -> None:
    """What is not all of a set beside what all see whole is not for the fast way."""
    look = Look("away" if fault == "away" else "still", "everything", False, 9, 0, 0, 3, 1)

    def made() -> list[Rows]:
        rows = run([look], (4, 5, 3), 40)
        if fault == "one span less":
            return rows[:2]
        if fault in ("seen in part", "seen by one alone"):
            some = rows[1:] if fault == "seen by one alone" else rows
            for place, each in enumerate(rows):
                if each in some:
                    sight, ranked = each.sights
                    assert isinstance(sight, Sight)
                    part = Sight(sight.span, sight.start, first(4))
                    rows[place] = Rows(each.tokens, each.place, (part, ranked))
        return rows

    assert not whole_set(made())
    query = vectors(9 if fault == "one span less" else 12, 4)[0]
    found = CpuExecutor().read(LAYER, query, made())
    close(found, TorchExecutor().read(LAYER, query, made()), NEAR)


def test_positions_beyond_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = both(3, (30, 20, 41), LAYER)
    monkeypatch.setattr(rotary, "TABLE_REACH", 50)
    found, _ = both(3, (30, 20, 41), LAYER)
    close(found, expected, NEAR)


def test_a_long_span_does_not_read_what_lies_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, attend = list[tuple[int, int]](), joint._Blocks._attend

    def watched(
        self: joint._Blocks,
        order: joint._Order,
        rows: slice,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        seen.append((rows.stop, keys.shape[2]))
        return attend(self, order, rows, query, keys, values)

    monkeypatch.setattr(joint._Blocks, "_attend", watched)
    monkeypatch.setattr(joint, "_groups", each_alone)
    both(3, (300, 600), LAYER)
    assert [rows for rows, _ in seen] == [150, 300, 200, 400, 600]
    assert {keys - rows for rows, keys in seen[:2]} == {3 + 640}  # in pages
    assert {keys - rows for rows, keys in seen[2:]} == {3 + 320}


def test_what_nobody_reads_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a prompt's last layer only its last rows are wanted."""
    asked, reads = list[int](), joint.read

    def watched(layer: Layer, cut: Cut, query: Tensor, rows: Rows) -> Tensor:
        asked.append(layer.index)
        return reads(layer, cut, query, rows)

    monkeypatch.setattr(joint, "read", watched)
    qkv, outputs = vectors(2 + 12 + 4), []
    for index, tail in enumerate((None, 4, 5, 0)):
        layer = Layer(index, HALF, SCALING, tail=tail)
        outputs.append(read(CpuExecutor(), RankedSet(2, (5, 4, 3)), layer, qkv, (18,)))
    assert asked == [0]
    close(outputs[1][:, :, -4:], outputs[0][:, :, -4:], NEAR)
    close(outputs[2][:, :, -5:], outputs[0][:, :, -5:], NEAR)
