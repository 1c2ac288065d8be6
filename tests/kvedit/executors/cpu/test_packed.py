"""Prompts around ranked sets, read in one pass a layer: each as alone, whatever its company."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PineOracle, rotary_of
from reads import HALF, Looker, Vectors, close, each_layer, vectors
from scenes import geometries
from torch import Tensor

from kvedit.executors.cases import RankedSet
from kvedit.executors.cpu import packed
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.cpu.packed import PromptPack
from kvedit.executors.cpu.padded import Prompt
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Ranked, Rows, Sight
from kvedit.together import Alone, Together

NEAR = 2e-5
Cut = tuple[int, tuple[int, ...], int]  # tokens of prefix, each span, suffix

CUTS: list[Cut] = [
    (3, (5, 2), 4),
    (2, (4, 7, 3, 5), 3),
    (0, (4, 3, 3), 3),
    (3, (4, 3, 6), 0),
    (2, (6,), 2),
    (1, (1, 1, 1), 1),
    (0, (3, 3), 0),
    (9, (20, 1), 11),
]
cuts = st.tuples(
    st.integers(0, 24), st.lists(st.integers(1, 14), min_size=1, max_size=5), st.integers(0, 20)
).map(lambda drawn: (drawn[0], tuple(drawn[1]), drawn[2]))


class Watched:
    """Counts the passes of a forward, by layer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layers: list[int] = []
        read = PromptPack.read

        def record(own: PromptPack, layer: Layer, *rest: object) -> Tensor:
            self.layers.append(layer.index)
            return read(own, layer, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(PromptPack, "read", record)
        monkeypatch.setattr(packed, "ANOTHER", 10**9)  # padding never keeps small prompts apart


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


class Whole(RankedSet):
    """A ranked set whose rows behind it are left out where there are none, as a reading does."""

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        return [each for each in super().rows(layer, key, value) if each.count]


def made(cut: Cut, layers: int = 1) -> list[Looker]:
    """Return what one prompt looks at in each layer."""
    return [Whole(cut[0], cut[1]) for _ in range(layers)]


class ByLayer:
    """A reading that looks at another set in each layer."""

    def __init__(self, cut: Cut, layers: int = 2) -> None:
        self._layers = made(cut, layers)

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        return self._layers[layer.index].rows(layer, key, value)


def tokens(cut: Cut) -> int:
    return cut[0] + sum(cut[1]) + cut[2]


def forwards(
    readings: Sequence[object], layers: Sequence[Layer], qkvs: Sequence[Vectors], sizes: list[int]
) -> list[tuple[Tensor, ...]]:
    """Return what all readings read of a forward side by side, by layer and place."""
    side = Together(readings, sizes, CpuExecutor())  # type: ignore[arg-type]
    found = [
        side.read(layer, *qkv).split(sizes, 2) for layer, qkv in zip(layers, qkvs, strict=True)
    ]
    assert not side.failed
    return found


def split(qkv: Vectors, sizes: list[int]) -> Iterator[Vectors]:
    yield from zip(*(each.split(sizes, 2) for each in qkv), strict=True)


@each_layer
def test_each_equals_the_oracle(watched: Watched, layer: Layer, dim: int) -> None:
    sizes = [tokens(cut) for cut in CUTS]
    qkv = vectors(sum(sizes), 3, dim=dim)
    (found,) = forwards([ByLayer(cut) for cut in CUTS], [layer], [qkv], sizes)
    assert watched.layers == [0]
    for (prefix, spans, _), own, piece in zip(CUTS, found, split(qkv, sizes), strict=True):
        rotary = rotary_of(layer.geometry)
        oracle = PineOracle(prefix, list(spans), rotary, layer.scaling, layer.softcap)
        expected = oracle.attention(*(each[0] for each in piece))
        close(own[0].double(), expected, NEAR)


@given(
    chosen=st.lists(cuts, min_size=2, max_size=6),
    heads=st.sampled_from([(4, 2), (2, 2), (4, 1)]),
    geometry=geometries,
    softcap=st.sampled_from([None, 1.5]),
    dim=st.sampled_from([8, 12]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_any_company_reads_as_each_alone(
    chosen: list[Cut],
    heads: tuple[int, int],
    geometry: RotaryGeometry | None,
    softcap: float | None,
    dim: int,
    seed: int,
) -> None:
    """In two layers of a prompt, and then in decoding, where each goes its own way again."""
    layers = [Layer(index, geometry, 0.4, softcap) for index in range(2)]
    together, alone = ([ByLayer(cut) for cut in chosen] for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        passes = Watched(patch)
        for step in range(3):
            sizes = [tokens(cut) for cut in chosen] if step == 0 else [1] * len(chosen)
            qkvs = [
                vectors(sum(sizes), seed + 7 * step + i, heads=heads, dim=dim) for i in range(2)
            ]
            found = forwards(together, layers, qkvs, sizes)
            for layer, qkv, side in zip(layers, qkvs, found, strict=True):
                for reading, piece, own in zip(alone, split(qkv, sizes), side, strict=True):
                    each = Alone(reading, CpuExecutor()).read(layer, *piece)  # type: ignore[arg-type]
                    close(own, each, NEAR)
        assert passes.layers == [0, 1]


def test_others_in_the_forward_read_on_their_own(watched: Watched) -> None:
    """Plain texts, tokens, and prompts of which a part is cached stand between the members."""
    layer, cut = Layer(0, HALF, 0.5), CUTS[1]

    def cast() -> list[Looker]:
        started = Whole(4, (5, 6))
        _, key, value = vectors(4 + 11, 8)
        rows = started.rows(layer, key, value)
        CpuExecutor().read(layer, vectors(4 + 11, 8)[0], rows)
        return [ByLayer(CUTS[0]), PlainReading(), ByLayer(cut), started]

    sizes = [tokens(CUTS[0]), 9, tokens(cut), 3]
    qkv = vectors(sum(sizes), 2)
    (found,) = forwards(cast(), [layer], [qkv], sizes)
    assert watched.layers == [0]
    for reading, piece, own in zip(cast(), split(qkv, sizes), found, strict=True):
        expected = Alone(reading, CpuExecutor()).read(layer, *piece)  # type: ignore[arg-type]
        close(own, expected, NEAR)


@pytest.mark.parametrize("where", ["read", "__init__"])
def test_a_pass_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    def fail(self: object, *rest: object) -> None:
        raise MemoryError("planted")

    monkeypatch.setattr(PromptPack, where, fail)
    layers = [Layer(index, HALF, 0.4) for index in range(2)]
    sizes = [tokens(cut) for cut in CUTS]
    qkvs = [vectors(sum(sizes), seed) for seed in range(2)]
    found = forwards([ByLayer(cut) for cut in CUTS], layers, qkvs, sizes)
    assert len(caplog.records) == 1  # it is not tried again in the next layer
    assert "planted" in caplog.text
    alone = [ByLayer(cut) for cut in CUTS]
    for layer, qkv, side in zip(layers, qkvs, found, strict=True):
        for reading, piece, own in zip(alone, split(qkv, sizes), side, strict=True):
            expected = Alone(reading, CpuExecutor()).read(layer, *piece)  # type: ignore[arg-type]
            close(own, expected, NEAR)


class Failing(ByLayer):
    """Fails in the second layer."""

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        if layer.index == 1:
            raise RuntimeError("planted")
        return super().rows(layer, key, value)


def test_a_member_that_fails_disturbs_nobody(watched: Watched) -> None:
    layers = [Layer(index, HALF, 0.4) for index in range(2)]
    sizes = [tokens(cut) for cut in CUTS]
    readings = [Failing(cut) if place == 1 else ByLayer(cut) for place, cut in enumerate(CUTS)]
    side = Together(readings, sizes, CpuExecutor())  # type: ignore[arg-type]
    alone = [ByLayer(cut) for cut in CUTS]
    for layer in layers:
        qkv = vectors(sum(sizes), layer.index)
        found = side.read(layer, *qkv).split(sizes, 2)
        assert list(side.failed) == ([1] if layer.index else [])
        for place, piece in enumerate(split(qkv, sizes)):
            expected = Alone(alone[place], CpuExecutor()).read(layer, *piece)  # type: ignore[arg-type]
            if place != 1 or not layer.index:
                close(found[place], expected, NEAR)
    assert watched.layers == [0]


def test_members_are_told_their_weights_alone(watched: Watched) -> None:
    """Each hears of its own suffix and its own spans."""

    class Told(Whole):
        def __init__(self, cut: Cut) -> None:
            super().__init__(cut[0], cut[1])
            self.weights: list[Tensor] = []

        def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
            found = list(super().rows(layer, key, value))
            place = len(found) - 1
            sights = tuple(
                Ranked(each.spans, each.end, told=self.weights.append)
                if isinstance(each, Ranked) and each.own is None
                else each
                for each in found[place].sights
            )
            return [*found[:place], Rows(found[place].tokens, found[place].place, sights)]

    layer, sizes = Layer(0, HALF, 0.5), [tokens(cut) for cut in CUTS[:3]]
    qkv = vectors(sum(sizes), 2)
    side, alone = ([Told(cut) for cut in CUTS[:3]] for _ in range(2))
    forwards(side, [layer], [qkv], sizes)
    assert watched.layers == [0]
    for one, other, piece in zip(side, alone, split(qkv, sizes), strict=True):
        Alone(other, CpuExecutor()).read(layer, *piece)  # type: ignore[arg-type]
        close(torch.cat(one.weights, 2), torch.cat(other.weights, 2), NEAR)


def test_only_a_whole_prompt_that_nobody_has_read_is_a_member() -> None:
    layer, cut = Layer(0, HALF, 0.5), (3, (5, 2), 4)
    _, key, value = vectors(tokens(cut))
    rows = Whole(cut[0], cut[1]).rows(layer, key, value)
    assert Prompt.of(rows) == Prompt(*cut)
    assert Prompt.of(PlainReading().rows(layer, key, value)) is None
    assert Prompt.of(rows[1:]) is None  # the prefix is cached already
    (ranked,) = (each for each in rows[1].sights if isinstance(each, Ranked))
    assert ranked.spans.framed.shape[2] >= 7  # somebody reads it
    assert Prompt.of(rows) is None


@pytest.mark.parametrize("fault", ["moved", "another span"])
def test_other_prompts_around_a_set_are_no_members(fault: str) -> None:
    layer, cut = Layer(0, HALF, 0.5), (3, (5, 2), 4)
    _, key, value = vectors(tokens(cut))
    *before, last = Whole(cut[0], cut[1]).rows(layer, key, value)
    if fault == "moved":
        last = Rows(last.tokens, last.place + 1, last.sights)
    else:
        (far,) = PlainReading().rows(layer, key, value)
        assert isinstance(far.sights[0], Sight)
        last = Rows(last.tokens, last.place, (*last.sights, Sight(far.sights[0].span, away=9)))
    assert Prompt.of([*before, last]) is None


def test_prompts_of_unlike_size_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = Prompt(3, (5, 4), 4), Prompt(40, (30, 30), 30)
    prompts = dict(enumerate([large, small] * 3))
    monkeypatch.setattr(packed, "ANOTHER", 10**9)
    assert list(packed.groups(prompts)) == [[0, 1, 2, 3, 4, 5]]
    monkeypatch.setattr(packed, "ANOTHER", 100)
    assert list(packed.groups(prompts)) == [[1, 3, 5], [0, 2, 4]]
    monkeypatch.setattr(packed, "MOST", 10_000)  # less than a large one alone
    assert list(packed.groups(prompts)) == [[1, 3, 5]]
    assert list(packed.groups({})) == []
