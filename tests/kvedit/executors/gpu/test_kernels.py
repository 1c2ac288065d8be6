"""The GPU kernels, run on the CPU by Triton's interpreter: oracles, the torch executor, and order.

On a machine with CUDA the same tests run the compiled kernels.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from oracles import PineOracle, Rotary, unmoved
from torch import Tensor

pytest.importorskip("triton")

from kvedit import state
from kvedit.executors import Executor, choice, gpu
from kvedit.executors import torch as specification
from kvedit.executors.cases import CASES as MEASURED
from kvedit.executors.cases import Shape
from kvedit.executors.choice import choose, difference
from kvedit.executors.gpu import launch, records, sights, tiling
from kvedit.executors.gpu.executor import GpuExecutor
from kvedit.executors.gpu.records import Placed, Records
from kvedit.executors.gpu.tiling import Tile, Tiling
from kvedit.executors.torch import TorchExecutor
from kvedit.group_position import GroupPositionReading
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.pages import Pages
from kvedit.plain import PlainReading
from kvedit.reading import Layer, Reading
from kvedit.rotary import TABLE_REACH, Layout, RotaryGeometry, turn
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span, SpanSet
from kvedit.state import State, merge
from kvedit.visibility import beyond, causal, first, within

HEADS, KV_HEADS, SCALING = 2, 1, 0.5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HALF_TYPES = [torch.bfloat16, torch.float16]

Vectors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A prompt around a ranked set, in tokens, and one layer."""

    prefix: int
    sizes: tuple[int, ...]
    suffix: int
    dim: int = 16
    turning: int = 8
    layout: Layout = "half"
    softcap: float | None = None
    heads: int = HEADS
    batch: int = 1

    @property
    def end(self) -> int:
        return self.prefix + sum(self.sizes)

    @property
    def layer(self) -> Layer:
        inv_freq = 100.0 ** (-torch.arange(self.turning, device=DEVICE).float() / self.turning)
        geometry = RotaryGeometry(inv_freq, self.layout) if self.turning else None
        return Layer(0, geometry, SCALING, self.softcap)

    def tensors(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Vectors:
        """Return queries, keys and values, not rotated."""
        return vectors(
            self.end + self.suffix, dtype, seed, heads=self.heads, dim=self.dim, batch=self.batch
        )

    def expected(self, qkv: Vectors) -> Tensor:
        """Return the rows after the prefix by the oracle, in float64."""
        geometry = self.layer.geometry
        rotary = Rotary(geometry.inv_freq.cpu(), geometry.layout) if geometry else unmoved
        oracle = PineOracle(self.prefix, list(self.sizes), rotary, SCALING, self.softcap)
        rows = [oracle.attention(*(x[b].cpu() for x in qkv)) for b in range(self.batch)]
        return torch.stack(rows)[:, :, self.prefix :]

    def spans(self, qkv: Vectors) -> tuple[Span, SpanSet, Span]:
        """Return prefix, set and suffix; what pads the set is poison."""
        _, key, value = qkv
        geometry = self.layer.geometry
        prefix, suffix = Span(geometry), Span(geometry)
        inside = SpanSet(Pages(self.sizes, DEVICE), geometry)
        prefix.append(key[:, :, : self.prefix], value[:, :, : self.prefix])
        inside.fill(key[:, :, self.prefix : self.end], value[:, :, self.prefix : self.end])
        suffix.append(key[:, :, self.end :], value[:, :, self.end :])
        if inside.pages.filled is not None:
            for each in (inside.raw, inside.framed, inside.values):
                each[:, :, ~inside.pages.filled] = torch.nan
        return prefix, inside, suffix

    def rows(self, qkv: Vectors) -> list[Rows]:
        """Return all rows after the prefix, the first of them being token 0."""
        prefix, inside, suffix = self.spans(qkv)
        found, token = list[Rows](), 0
        for own, size in enumerate(self.sizes):
            seen = (Sight(prefix), Ranked(inside, self.end, own=own))
            found.append(Rows(slice(token, token + size), self.end - size, seen))
            token += size
        last = (Sight(prefix), Ranked(inside, self.end), Sight(suffix, self.end, causal))
        found.append(Rows(slice(token, token + self.suffix), self.end, last))
        return [each for each in found if each.count]


def vectors(
    tokens: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    *,
    heads: int = HEADS,
    dim: int = 16,
    batch: int = 1,
) -> Vectors:
    """Return seeded queries, keys and values, [batch, heads or key heads, tokens, dim]."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(batch, count, tokens, dim, generator=generator).to(dtype).to(DEVICE)
        for count in (heads, KV_HEADS, KV_HEADS)
    )
    return query, key, value


def run(case: Case, qkv: Vectors) -> Tensor:
    """Return the rows after the prefix by the kernels."""
    return GpuExecutor().read(case.layer, qkv[0][:, :, case.prefix :], case.rows(qkv))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu().double() - expected).square().mean().sqrt())


CASES = [
    pytest.param(Case(3, (5, 2), 4), id="two documents"),
    pytest.param(Case(2, (4, 7, 3), 3, heads=4), id="three documents, grouped heads"),
    pytest.param(Case(0, (4, 3, 3), 2), id="no prefix"),
    pytest.param(Case(3, (4, 3, 6), 0), id="no suffix"),
    pytest.param(Case(2, (6,), 2), id="one document"),
    pytest.param(Case(1, (1, 1, 1), 1), id="documents of one token"),
    pytest.param(Case(20, (40, 1, 3), 2), id="very unequal documents, several tiles"),
    pytest.param(Case(2, (3, 5, 4), 20), id="a suffix of several tiles"),
    pytest.param(Case(2, (4, 7, 3), 2, turning=4), id="partial rotary"),
    pytest.param(Case(2, (4, 7, 3), 2, layout="interleaved"), id="interleaved"),
    pytest.param(Case(2, (4, 5), 2, turning=3, layout="interleaved"), id="partial interleaved"),
    pytest.param(Case(2, (4, 5, 3), 2, dim=24, turning=12), id="width not a power of two"),
    pytest.param(Case(2, (4, 5), 2, dim=24, turning=5), id="partial, not a power of two"),
    pytest.param(Case(2, (4, 5, 3), 2, turning=0), id="no positions"),
    pytest.param(Case(2, (4, 7, 3), 2, softcap=0.7), id="soft cap"),
    pytest.param(Case(2, (4, 5), 2, softcap=1e4), id="soft cap out of reach"),
    pytest.param(Case(2, (3, 5, 2), 2, batch=2), id="two rows in a batch"),
]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiles of 16 by 16 and pieces of 16 tokens, so that small prompts have several."""
    monkeypatch.setattr(Tile, "of", lambda query, rows, keys: Tile(16, 16, 4, 2))
    monkeypatch.setattr(tiling, "PIECE", 16)


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split little: the interpreter runs one program after the other."""
    monkeypatch.setattr(launch, "PROGRAMS", 8)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(case: Case) -> None:
    qkv = case.tensors()
    found = run(case, qkv)
    torch.testing.assert_close(found.cpu().double(), case.expected(qkv), atol=5e-6, rtol=0)


def test_tiles_as_chosen_equal_the_torch_executor() -> None:
    case = Case(70, (90, 20, 33), 9)
    qkv = case.tensors()
    expected = TorchExecutor().read(case.layer, qkv[0][:, :, case.prefix :], case.rows(qkv))
    torch.testing.assert_close(run(case, qkv), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_half_precision_rounds_once_what_a_tensor_core_multiplies(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned queries, and weights, as in FlashAttention; the torch executor multiplies floats."""
    case = Case(5, (12, 20), 4)  # two spans: no near-tie in the order can hide the rounding
    qkv = case.tensors(dtype)
    query, expected = qkv[0][:, :, case.prefix :], case.expected(qkv)
    exact = error(TorchExecutor().read(case.layer, query, case.rows(qkv)), expected)
    turned, weighed = turn, state.weigh
    monkeypatch.setattr(specification, "turn", lambda *a: turned(*a).to(dtype).float())
    monkeypatch.setattr(state, "weigh", lambda w, v: weighed(w.to(dtype).float(), v))
    rounded = error(TorchExecutor().read(case.layer, query, case.rows(qkv)), expected)
    assert exact < rounded
    assert error(run(case, qkv), expected) <= 1.1 * rounded


def placed(spans: SpanSet, starts: Sequence[int], rows: int, heads: int) -> Placed:
    """Return a set whose spans start where they do for all rows."""
    appears = torch.tensor(starts, device=DEVICE).expand(1, heads, rows, -1).contiguous()
    return Placed(spans, Tiling.of(spans.pages), appears)


@pytest.mark.usefixtures("small_tiles")
def test_one_new_token_is_split_over_pieces_whose_states_merge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(3, (20, 4, 9), 5, heads=4)
    qkv = case.tensors()
    prefix, inside, suffix = case.spans(qkv)
    last, place = qkv[0][:, :, -1:], case.end + case.suffix - 1
    seen = (Sight(prefix), placed(inside, (16, 12, 3), 1, 4), Sight(suffix, case.end, causal))
    parts = sights.states(case.layer, last, place, seen)
    assert parts.weight_log.shape[-1] == 6  # two of the first span, one each, prefix and suffix
    monkeypatch.setattr(launch, "PROGRAMS", 1)
    whole = sights.states(case.layer, last, place, seen)
    assert whole.weight_log.shape[-1] == 1
    pairs = zip(parts.output.unbind(3), parts.weight_log.unbind(3), strict=True)
    merged = functools.reduce(merge, [State(*pair) for pair in pairs])
    torch.testing.assert_close(merged.output, whole.output[:, :, :, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(merged.weight_log, whole.weight_log[..., 0], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mass_is_that_of_scores_without_positions(dtype: torch.dtype) -> None:
    """Products of half precision are exact in float32: importance is scored in float32."""
    case = Case(2, (18, 3, 5), 2, softcap=2.0)
    query, key, value = case.tensors(dtype)
    _, inside, _ = case.spans((query, key, value))
    logs = GpuExecutor().mass(case.layer, query, inside)
    product = 2 * torch.tanh(query.double() @ key.double().mT * SCALING / 2)
    spans = product[..., case.prefix : case.end].split_with_sizes(list(case.sizes), -1)
    expected = torch.stack([span.logsumexp(-1) for span in spans], -1)
    torch.testing.assert_close(logs.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("small_tiles")
def test_permuting_spans_leaves_every_bit() -> None:
    """Canonical order gives equal inputs: what the kernels must add is equal work for them."""
    texts = [tuple(range(9)), (4, 4, 4), (7, 2)]
    table = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))
    found = []
    for order in itertools.islice(itertools.permutations(texts), 0, 6, 2):
        canonical = sorted(order)
        case = Case(2, tuple(len(text) for text in canonical), 2)
        ids = torch.tensor([1, 2, *itertools.chain(*canonical), 3, 5])
        query, key, value = (
            table[x, ids].expand(1, heads, -1, -1).to(DEVICE)
            for x, heads in enumerate((HEADS, 1, 1))
        )
        found.append(run(case, (query, key, value)))
    assert len(found) == 3
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the kernels that are launched from here on."""
    names, original = list[str](), launch.run

    def noted(
        kernel: launch.Kernel,
        grid: tuple[int, ...],
        tile: Tile,
        query: Tensor,
        *arguments: object,
    ) -> None:
        names.append(kernel.__name__)
        original(kernel, grid, tile, query, *arguments)

    monkeypatch.setattr(launch, "run", noted)
    return names


def test_each_kind_of_rows_takes_its_way_in_few_launches(launched: list[str]) -> None:
    case = Case(3, (9, 4, 6), 2)
    qkv, executor = case.tensors(), GpuExecutor()
    *inside, last = case.rows(qkv)
    query = qkv[0][:, :, case.prefix :]
    executor.read(case.layer, query[:, :, : -case.suffix], inside)
    assert launched == ["weigh", "add_shares", "read_jointly"]
    launched.clear()
    executor.read(case.layer, query[:, :, -case.suffix :], [replace(last, tokens=slice(0, 2))])
    assert launched == ["weigh", "read_sights"]
    launched.clear()
    executor.read(case.layer, qkv[0], PlainReading().rows(case.layer, *qkv[1:]))
    assert launched == []  # one span that stands still is SDPA's
    capped = replace(case.layer, softcap=3.0)
    executor.read(capped, qkv[0], PlainReading().rows(capped, *qkv[1:]))
    assert launched == ["read_sights"]


def test_a_part_of_a_set_is_read_as_specified(launched: list[str]) -> None:
    case = Case(3, (9, 4, 6), 2)
    qkv = case.tensors()
    rows = case.rows(qkv)[:2]
    query = qkv[0][:, :, case.prefix : case.prefix + 13]
    found = GpuExecutor().read(case.layer, query, rows)
    torch.testing.assert_close(found, TorchExecutor().read(case.layer, query, rows))
    assert launched == []


def test_what_nobody_reads_is_not_computed(launched: list[str]) -> None:
    case = Case(3, (9, 4, 6), 5)
    qkv, layer = case.tensors(), replace(case.layer, tail=2)
    query, rows = qkv[0][:, :, case.prefix :], case.rows(qkv)
    found = GpuExecutor().read(layer, query, rows)
    assert launched == ["weigh", "read_sights"]
    expected = TorchExecutor().read(layer, query, rows)
    torch.testing.assert_close(found[:, :, -2:], expected[:, :, -2:], atol=1e-5, rtol=0)


def test_who_asks_is_told_the_weights() -> None:
    case, told = Case(3, (9, 4, 6), 2), list[Tensor]()
    qkv = case.tensors()
    last = case.rows(qkv)[-1]
    prefix, asked, suffix = last.sights
    assert isinstance(asked, Ranked)
    query = qkv[0][:, :, case.end :]
    asks = replace(
        last, tokens=slice(0, 2), sights=(prefix, replace(asked, told=told.append), suffix)
    )
    for executor in (GpuExecutor(), TorchExecutor()):
        executor.read(case.layer, query, [asks])
    torch.testing.assert_close(told[0], told[1], atol=1e-6, rtol=0)


SHAPES: list[tuple[int, Layout, float | None]] = [
    (8, "half", None),
    (4, "half", 3.0),
    (5, "interleaved", None),
    (0, "half", 3.0),
]


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(("turning", "layout", "softcap"), SHAPES)
def test_measures_right_beside_the_specification(
    turning: int, layout: Layout, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU is measured by at load; what takes long in the interpreter is done once."""
    slow = {"long spans", "short spans"} if softcap is None or turning == 0 else set[str]()
    cases = {name: case for name, case in MEASURED.items() if name not in slow}
    monkeypatch.setattr(choice, "CASES", cases)
    layer = Case(0, (1,), 0, turning=turning, layout=layout, softcap=softcap).layer
    shape = Shape(layer, HEADS, KV_HEADS, 16, torch.float32, DEVICE)
    assert difference(GpuExecutor(), shape) is None


def test_a_wrong_turn_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(Case(0, (1,), 0).layer, HEADS, KV_HEADS, 16, torch.float32, DEVICE)
    monkeypatch.setattr(launch, "pairs", lambda layer: (7, False))
    reason = difference(GpuExecutor(), shape)
    assert reason is not None
    assert reason.startswith("what it reads of")


def text(softcap: float | None) -> Iterator[tuple[Reading, tuple[int, ...], Layer]]:
    """Yield readings, the tokens of their forwards, and a layer each."""
    layer = Case(0, (1,), 0, softcap=softcap).layer
    groups = GroupPositionReading(24, seen=(5, 9, 9, 17))
    groups.feed(17)
    yield PlainReading(), (20, 1, 3), layer
    yield PlainReading(), (20, 1, 20), replace(layer, window=6)
    yield LmInfiniteReading(3, 8, 8), (6, 9, 1, 20, 1), layer
    yield LmInfiniteReading(3, 8, 8), (19, 1), replace(layer, geometry=None)
    yield groups, (25,), layer


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES])
@pytest.mark.parametrize("tenant", range(5))
def test_every_technique_reads_as_specified(
    tenant: int, dtype: torch.dtype, softcap: float | None
) -> None:
    found, expected = (
        read(executor, *next(itertools.islice(text(softcap), tenant, None)), dtype)
        for executor in (GpuExecutor(), TorchExecutor())
    )
    off = 1e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        found.double(), expected.double(), atol=off * float(expected.abs().max()), rtol=0
    )


def read(
    executor: Executor,
    reading: Reading,
    forwards: Sequence[int],
    layer: Layer,
    dtype: torch.dtype,
) -> Tensor:
    """Return what random tokens read, forward by forward."""
    pieces = []
    for seed, count in enumerate(forwards):
        query, key, value = vectors(count, dtype, seed, heads=4)
        pieces.append(executor.read(layer, query, reading.rows(layer, key, value)))
    return torch.cat(pieces, 2)


def held(tokens: int, layer: Layer, seed: int = 0, *, raw: bool = False, batch: int = 1) -> Span:
    """Return a span of random tokens."""
    span = Span(None if raw else layer.geometry)
    span.append(*vectors(tokens, seed=seed, batch=batch)[1:])
    return span


def ring(layer: Layer) -> Span:
    span = held(40, layer, 1)
    span.drop(21)
    return span


def shared(layer: Layer) -> Sight:
    """Return a sight of keys in a buffer with room, and of values without, of two key heads."""
    keys, values = (torch.cat(vectors(40, seed=seed)[1:], 1) for seed in (1, 2))
    return Sight(Span.holding(layer.geometry, keys[:, :, :30], values[:, :, :30].contiguous()))


def moved(rows: int, heads: int, batch: int = 1) -> Tensor:
    """Return a position for each row of each head."""
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(-9, 30, (batch, heads, rows), generator=generator).to(DEVICE)


LAYER = Case(0, (1,), 0).layer
# sights by what is odd about them, each of rows 40 to 44 beside a span that they see causally
ODD: dict[str, Callable[[], Sight | Ranked]] = {
    "buffers of two strides": lambda: shared(LAYER),
    "behind the rows": lambda: Sight(held(20, LAYER), 70),
    "away": lambda: Sight(held(20, LAYER), away=7),
    "away, raw": lambda: Sight(held(20, LAYER, raw=True), away=7, visible=beyond(30)),
    "raw, somewhere": lambda: Sight(held(20, LAYER, raw=True), 11, within(25)),
    "a ring": lambda: Sight(ring(LAYER), 3, within(12)),
    "a ring's first ones": lambda: Sight(ring(LAYER), 3, first(30)),
    "a cut": lambda: Sight(held(40, LAYER).cut(7, 33), 2, causal & within(20)),
    "a window of several pieces": lambda: Sight(held(60, LAYER), 0, within(38)),
    "nothing": lambda: Sight(held(20, LAYER), 0, within(3)),
    "not held": lambda: Sight(Span(LAYER.geometry)),
    "a start per row": lambda: Sight(held(40, LAYER), moved(5, 4)),
    "a start per head": lambda: Sight(held(40, LAYER), moved(1, 4), first(35)),
    "a start for all": lambda: Sight(held(40, LAYER), torch.tensor(9), beyond(12)),
    "a count per row": lambda: Sight(held(40, LAYER), 2, first(torch.tensor([0, 17, 3, 40, 99]))),
    "counts, causally": lambda: Sight(
        ring(LAYER), 8, causal & first(torch.tensor([20, 25, 30, 35, 40], device=DEVICE))
    ),
    "counts, in a window": lambda: Sight(
        ring(LAYER), 8, within(9) & first(torch.tensor([24, 25, 26, 30, 35]))
    ),
    "a set": lambda: Ranked(several(LAYER), 33),
}


def several(layer: Layer) -> SpanSet:
    spans = SpanSet(Pages((9, 20, 1), DEVICE), layer.geometry)
    spans.fill(*vectors(30, seed=5)[1:])
    return spans


def twice(span: Span) -> Span:
    """Return a span with its key head twice."""
    keys, values = (each.repeat(1, 2, 1, 1) for each in (span.keys, span.values))
    return Span.holding(span.geometry, keys, values)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("odd", ODD)
def test_any_sight_is_read_beside_others(odd: str) -> None:
    query, key, value = vectors(5, heads=4, seed=9)
    sight = ODD[odd]()
    others = [held(18, LAYER, 3), Span(LAYER.geometry)]
    others[1].append(key, value)
    if isinstance(sight, Sight) and sight.span.held and sight.span.keys.shape[1] > 1:
        others = [twice(each) for each in others]
    seen = (sight, Sight(others[1], 40, causal), Sight(others[0], 4))
    rows = [Rows(slice(0, 5), 40, seen)]
    found = GpuExecutor().read(LAYER, query, rows)
    expected = TorchExecutor().read(LAYER, query, rows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("small_tiles")
def test_several_sets_and_starts_of_a_batch_are_read_at_once() -> None:
    query, key, value = vectors(5, heads=4, batch=2)
    own = Span(LAYER.geometry)
    own.append(key, value)
    sets = [SpanSet(Pages(sizes, DEVICE), LAYER.geometry) for sizes in ((3, 17), (1, 2, 5))]
    for seed, spans in enumerate(sets):
        spans.fill(*vectors(sum(spans.pages.sizes), seed=seed, batch=2)[1:])
    apart = Sight(held(18, LAYER, 3, batch=2), moved(5, 4, 2))
    seen = (Ranked(sets[0], 20), apart, Ranked(sets[1], 30), Sight(own, 40, causal))
    rows = [Rows(slice(0, 5), 40, seen)]
    found = GpuExecutor().read(LAYER, query, rows)
    expected = TorchExecutor().read(LAYER, query, rows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("place", [TABLE_REACH - 2, 1 << 24])
def test_angles_are_exact_far_out(place: int) -> None:
    """A float32 angle at 2^24 tokens is off by up to half a radian."""
    query, key, value = vectors(5, heads=4)
    own = Span(LAYER.geometry)
    own.append(key, value)
    rows = [Rows(slice(0, 5), place, (Sight(held(20, LAYER)), Sight(own, place, causal)))]
    found = GpuExecutor().read(LAYER, query, rows)
    expected = TorchExecutor().read(LAYER, query, rows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("small_tiles")
def test_a_set_far_out_is_read_jointly() -> None:
    case = Case(4, (5, 9, 3), 2)
    qkv, far = case.tensors(), 1 << 22
    prefix, inside, suffix = case.spans(qkv)
    rows, token = list[Rows](), 0
    for own, size in enumerate(case.sizes):
        seen = (Sight(prefix, 7), Sight(suffix, far // 2), Ranked(inside, far, own=own))
        rows.append(Rows(slice(token, token + size), far - size, seen))
        token += size
    query = qkv[0][:, :, case.prefix : case.end]
    found = GpuExecutor().read(case.layer, query, rows)
    expected = TorchExecutor().read(case.layer, query, rows)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_only_pieces_that_a_row_sees_are_read() -> None:
    span = held(5000, LAYER)
    query = vectors(3)[0]
    seen = [Sight(span, visible=causal & within(10)), Sight(held(600, LAYER), visible=within(9))]
    found = Records.of(seen, 4997, query)
    assert (found.pieces, found.spans, found.tokens) == (1, 1, 12)
    assert Records.of([Sight(span)], 4997, query).pieces == 20


def test_vectors_are_loaded_whole_only_from_addresses_that_they_divide() -> None:
    tokens = torch.zeros(1, 2, 40, 16, dtype=torch.bfloat16, device=DEVICE)
    assert records.aligned(tokens[:, :, 3:])
    assert not records.aligned(tokens.flatten()[3:35].view(1, 1, 2, 16))
    assert not records.aligned(torch.zeros(1, 1, 2, 20, dtype=torch.bfloat16, device=DEVICE))
    assert records.aligned(torch.zeros(1, 1, 2, 20, device=DEVICE))


def test_the_cut_of_a_set_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case, made, original = Case(0, (3, 4), 2), list[Pages](), Tiling.of

    def noted(pages: Pages) -> Tiling:
        made.append(pages)
        return original(pages)

    monkeypatch.setattr(Tiling, "of", noted)
    qkv, executor = case.tensors(), GpuExecutor()
    rows, query = case.rows(qkv), qkv[0]
    for _ in range(3):
        executor.read(case.layer, query, rows)
    assert len(made) == 1
    rows.clear()
    made.clear()
    gc.collect()
    assert not executor._tilings


def test_tiles_fit_what_is_asked_and_what_the_machine_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = torch.empty(1, 1, 1, 128, dtype=torch.bfloat16)
    assert Tile.of(query, 512, 512) == Tile(128, 64, 8, 3)
    assert Tile.of(query, 1, 5) == Tile(16, 16, 4, 3)
    assert Tile.of(query.float(), 512, 512).rows < 128
    monkeypatch.setattr(tiling, "shared_memory", lambda device: 99_000)
    assert Tile.of(query, 512, 512) == Tile(64, 32, 8, 2)


def test_what_the_kernels_cannot_read_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor, layer = GpuExecutor(), LAYER
    with pytest.raises(ValueError, match="float32 at most, got float64"):
        executor.read(layer, torch.zeros(1, 1, 1, 16, dtype=torch.float64), [])
    with pytest.raises(ValueError, match="heads of 256 dimensions at most, got 264"):
        executor.read(layer, torch.zeros(1, 1, 1, 264), [])
    wide = Shape(layer, 1, 1, 264, torch.float32, torch.device("cuda"))
    sentence = "its kernels are for heads of 256 dimensions at most, got 264"
    assert choose([wide]).refusals == {"gpu": sentence}
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    with pytest.raises(ValueError, match="must be given tensors on a GPU, got cpu"):
        executor.read(layer, torch.zeros(1, 1, 1, 16), [])
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert gpu.refusal(torch.float32, 16) == "triton is not installed"


COMPILE = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kvedit.executors.gpu import reading_kernels, weighing_kernels

FLOATS = "inv_freq partial weight_log logs weight".split()
TYPES = dict.fromkeys("query key value output raw".split(), "*bf16")
TYPES |= dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(["scale", "cap"], "fp32")
TYPES |= dict.fromkeys("first_slot first_token lengths tile_span tile_first".split(), "*i32")
TYPES |= dict.fromkeys(["records", "starts"], "*i64")
STRIDES = {"key_strides": ("i32",) * 2}
odd = sys.argv[1] == "odd"
dim = 16 if odd else 64
SHAPE = {"dim": dim, "width": dim, "turning": 4 if odd else 32, "interleaved": False}
SHAPE |= {"capped": odd, "far": odd, "aligned": not odd, "interpreted": False}
SHAPE |= {"rows": 16, "keys": dim, "piece": 16, "most": 16}
KERNELS = [(reading_kernels, "read_jointly"), (reading_kernels, "read_sights")]
KERNELS += [(weighing_kernels, "weigh"), (weighing_kernels, "add_shares")]
for module, name in KERNELS:
    kernel = getattr(module, name)
    shape = {name: SHAPE[name] for name in kernel.arg_names if name in SHAPE}
    types = {name: TYPES.get(name, "i32") for name in kernel.arg_names}
    types |= {name: STRIDES.get(name, ("i32",) * 3) for name in types if name.endswith("strides")}
    types |= dict.fromkeys(shape, "constexpr")
    source = ASTSource(kernel, types, shape)
    built = compile(source, GPUTarget("cuda", 80, 32), {"enable_fp_fusion": True})
    print(name, len(built.asm["cubin"]), "cp.async.cg." in built.asm["ptx"])
"""


@pytest.mark.parametrize("kind", ["odd", "even"])
def test_the_kernels_compile_for_a_gpu(kind: str, tmp_path: Path) -> None:
    """The interpreter takes more than the compiler does: types of branches, for one."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4
    # keys that a record points at come in vectors of 16 bytes, ahead of their use, where they can
    assert lines[1] == ["read_sights", lines[1][1], str(kind == "even")]
