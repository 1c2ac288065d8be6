"""Prompts read in one pass a layer: each as alone, whatever its company."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_llama, tiny_qwen2
from oracles import PineOracle, Rotary, unmoved

from kvedit.hf import open_door
from kvedit.plain import Plain
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.shelf import Shelf
from kvedit.together import Together
from pine import together as pine_together
from pine.reading import Pine
from pine.segments import Segments
from pine.together import Pass, companies

INV_FREQ = 10000.0 ** (-torch.arange(0, 8, 2).float() / 8)
NEAR = {"atol": 2e-5, "rtol": 0.0}
Cut = tuple[int, tuple[int, ...], int]  # tokens of prefix, each document, suffix

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


def segments_of(cut: Cut) -> Segments:
    prefix, lengths, suffix = cut
    documents = tuple((place,) * length for place, length in enumerate(lengths))
    return Segments((0,) * prefix, documents, (0,) * suffix)


def tensors(tokens: int, seed: int, heads: int = 4, kv_heads: int = 2, dim: int = 8):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, tokens, count, dim, generator=generator).transpose(1, 2)
        for count in (heads, kv_heads, kv_heads)
    ]


@pytest.fixture(autouse=True)
def one_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the prompts, padding never keeps them apart."""
    monkeypatch.setattr(pine_together, "COMPANY", 10**9)


class Watched:
    """Counts the passes of a forward, by layer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layers: list[int] = []
        read = Pass.read

        def record(own, layer, *rest):
            self.layers.append(layer.index)
            return read(own, layer, *rest)

        monkeypatch.setattr(Pass, "read", record)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def forwards(readings, layers, qkvs, lengths):
    """Return what all readings read of a forward side by side, by layer and place."""
    side = Together(readings, lengths)
    found = [
        side.read(layer, *qkv).split(lengths, 2) for layer, qkv in zip(layers, qkvs, strict=True)
    ]
    assert not side.failed
    return found


@pytest.mark.parametrize("layout", ["half", "interleaved", None])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("dim", [8, 12])
def test_each_equals_the_oracle(watched, layout, softcap, dim) -> None:
    geometry = RotaryGeometry(INV_FREQ, layout) if layout else None
    layer = Layer(0, geometry, 0.5, softcap)
    readings = [Pine(segments_of(cut)) for cut in CUTS]
    lengths = [len(segments_of(cut).ids) for cut in CUTS]
    qkv = tensors(sum(lengths), 3, dim=dim)
    (found,) = forwards(readings, [layer], [qkv], lengths)
    assert watched.layers == [0]
    rotary = Rotary(INV_FREQ, layout) if layout else unmoved
    pieces = zip(*(x.split(lengths, 2) for x in qkv), strict=True)
    for (prefix, documents, _), own, piece in zip(CUTS, found, pieces, strict=True):
        oracle = PineOracle(prefix, list(documents), rotary, 0.5, softcap)
        expected = oracle.attention(*(x[0] for x in piece))
        torch.testing.assert_close(own[0].double(), expected, **NEAR)


@given(
    chosen=st.lists(cuts, min_size=1, max_size=6),
    heads=st.sampled_from([(4, 2), (2, 2), (4, 1)]),
    layout=st.sampled_from(["half", "interleaved", None]),
    softcap=st.sampled_from([None, 1.5]),
    dim=st.sampled_from([8, 12]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_company_reads_as_each_alone(chosen, heads, layout, softcap, dim, seed) -> None:
    """In two layers of a prompt, and then in decoding, where each goes its own way again."""
    geometry = RotaryGeometry(INV_FREQ, layout) if layout else None
    layers = [Layer(index, geometry, 0.4, softcap) for index in range(2)]
    lengths = [len(segments_of(cut).ids) for cut in chosen]
    together, alone = ([Pine(segments_of(cut)) for cut in chosen] for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pine_together, "COMPANY", 10**9)
        passes = Watched(patch)
        for step in range(3):
            sizes = lengths if step == 0 else [1] * len(chosen)
            qkvs = [tensors(sum(sizes), seed + 7 * step + i, *heads, dim) for i in range(2)]
            found = forwards(together, layers, qkvs, sizes)
            for layer, qkv, side in zip(layers, qkvs, found, strict=True):
                pieces = zip(*(x.split(sizes, 2) for x in qkv), strict=True)
                for reading, piece, own in zip(alone, pieces, side, strict=True):
                    torch.testing.assert_close(own, reading.read(layer, *piece), **NEAR)
        assert passes.layers[:2] == [0, 1]


def ids_of(seed: int, count: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(128, (count,), generator=generator).tolist())


def prompt(seed: int, *lengths: int) -> Segments:
    pieces = [ids_of(seed + place, length) for place, length in enumerate(lengths)]
    return Segments(pieces[0], tuple(pieces[1:-1]), pieces[-1]).canonical()


PROMPTS = [prompt(0, 5, 7, 7, 4), prompt(10, 9, 3, 18, 1, 9, 6), prompt(20, 0, 12, 3)]


def run(door, readings, pieces):
    """Return each member's last-token logits."""
    lengths = [piece.shape[1] for piece in pieces]
    last = torch.tensor(lengths).cumsum(0) - 1
    side = Together(readings, lengths)
    return door.forward(torch.cat(pieces, 1), side, last)[0], side


def steps(count: int):
    for step in range(3):
        yield [torch.tensor([ids_of(100 + 10 * step + place, 1)]) for place in range(count)]


@pytest.mark.parametrize(
    ("build", "dtype", "near"),
    [
        (tiny_llama, torch.float32, 5e-5),
        (tiny_qwen2, torch.float32, 5e-5),
        (tiny_llama, torch.bfloat16, 0.3),
    ],
)
@torch.inference_mode()
def test_models_go_on_as_after_a_lone_prompt(watched, build, dtype, near) -> None:
    door = open_door(build().to(dtype))
    assert door.refusal is None
    together, alone = ([Pine(each, explain=True) for each in PROMPTS] for _ in range(2))
    pieces = [torch.tensor([each.ids]) for each in PROMPTS]
    for tokens in itertools.chain([pieces], steps(len(PROMPTS))):
        rows, _ = run(door, together, tokens)
        for row, reading, own in zip(rows, alone, tokens, strict=True):
            expected = door.forward(own, reading)[0, -1]
            torch.testing.assert_close(row, expected, atol=near, rtol=0)
    assert watched.layers == [0, 1]  # of the prompts alone
    if dtype == torch.float32:
        for one, other in zip(together, alone, strict=True):
            expected = pytest.approx(other.report()["pine"]["importance"], abs=1e-6)
            assert one.report()["pine"]["importance"] == expected


@torch.inference_mode()
def test_others_in_the_forward_read_on_their_own(watched) -> None:
    """Plain prompts, tokens, and prompts of which a part is cut off stand between the members."""
    door = open_door(tiny_llama())
    cut = prompt(30, 70, 9, 4, 3)
    pieces = [*(torch.tensor([each.ids]) for each in PROMPTS[:2]), torch.tensor([ids_of(5, 20)])]
    pieces.insert(1, torch.tensor([cut.prefix]))

    def cast():
        return [Pine(PROMPTS[0]), Pine(cut, Shelf(10**6)), Pine(PROMPTS[1]), Plain()]

    rows, side = run(door, cast(), pieces)
    assert not side.failed
    assert watched.layers == [0, 1]
    for row, reading, own in zip(rows, cast(), pieces, strict=True):
        torch.testing.assert_close(row, door.forward(own, reading)[0, -1], atol=5e-5, rtol=0)


def fail_in_second_layer(reading: Pine, *methods: str) -> Pine:
    """Make methods of one reading fail there."""

    def failing(method):
        def fail(layer, *rest):
            if layer.index == 1:
                raise RuntimeError("planted")
            return method(layer, *rest)

        return fail

    for name in methods:
        setattr(reading, name, failing(getattr(reading, name)))
    return reading


@pytest.mark.parametrize("alone_too", [False, True])
@torch.inference_mode()
def test_a_member_that_fails_disturbs_nobody(caplog, alone_too) -> None:
    door = open_door(tiny_llama())
    together, alone = ([Pine(each) for each in PROMPTS] for _ in range(2))
    fail_in_second_layer(together[1], "hold", *(["read"] if alone_too else []))
    pieces = [torch.tensor([each.ids]) for each in PROMPTS]
    for tokens in itertools.chain([pieces], steps(len(PROMPTS))):
        rows, side = run(door, together, tokens)
        assert list(side.failed) == ([1] if alone_too else [])
        for place, (row, reading) in enumerate(zip(rows, alone, strict=True)):
            expected = door.forward(tokens[place], reading)[0, -1]
            if not (alone_too and place == 1):
                torch.testing.assert_close(row, expected, atol=5e-5, rtol=0)
    assert "planted" in caplog.text


@pytest.mark.parametrize("where", ["read", "__init__"])
@torch.inference_mode()
def test_a_pass_that_fails_is_done_without(monkeypatch, caplog, where) -> None:
    def fail(self, *rest):
        raise MemoryError("planted")

    monkeypatch.setattr(Pass, where, fail)
    door = open_door(tiny_llama())
    pieces = [torch.tensor([each.ids]) for each in PROMPTS]
    rows, side = run(door, [Pine(each) for each in PROMPTS], pieces)
    assert not side.failed
    assert len(caplog.records) == 1  # it is not tried again in the next layer
    assert "planted" in caplog.text
    for row, own, each in zip(rows, pieces, PROMPTS, strict=True):
        torch.testing.assert_close(row, door.forward(own, Pine(each))[0, -1], atol=5e-5, rtol=0)


@torch.inference_mode()
def test_a_part_of_a_prompt_is_never_read_in_company() -> None:
    door = open_door(tiny_llama())
    pieces = [torch.tensor([each.ids]) for each in PROMPTS]
    rows, side = run(door, [Pine(each) for each in PROMPTS], [pieces[0][:, :7], *pieces[1:]])
    assert list(side.failed) == [0]  # the middle of a document is no border
    for place in (1, 2):
        expected = door.forward(pieces[place], Pine(PROMPTS[place]))[0, -1]
        torch.testing.assert_close(rows[place], expected, atol=5e-5, rtol=0)


def test_prompts_of_unlike_size_keep_apart(monkeypatch) -> None:
    small, large = segments_of((3, (5, 4), 4)), segments_of((40, (30, 30), 30))
    assert [sorted(each) for each in companies([large, small] * 3)] == [[0, 1, 2, 3, 4, 5]]
    monkeypatch.setattr(pine_together, "COMPANY", 100)
    assert [sorted(each) for each in companies([large, small] * 3)] == [[1, 3, 5], [0, 2, 4]]
    monkeypatch.setattr(pine_together, "MOST", 10_000)  # less than a large one alone
    assert [sorted(each) for each in companies([large, small] * 3)] == [[1, 3, 5]]
    assert list(companies([])) == []
