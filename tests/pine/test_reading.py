"""PINE against the float64 oracle, and its law: order does not exist."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_llama, tiny_qwen2
from oracles import PineOracle, Rotary

from kvedit.hf import open_door
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from pine import blocks, cpu, document_rows, groups
from pine.cpu import document_rows as compiled
from pine.reading import Pine
from pine.segments import Segments

INV_FREQ = 10000.0 ** (-torch.arange(0, 8, 2).float() / 8)
HEADS, KV_HEADS, DIM, SCALING = 4, 2, 8, 0.5

# prefix, documents, suffix in prefill, suffix token by token
CUTS = [
    pytest.param(3, [5, 2], 4, 3, id="two documents"),
    pytest.param(2, [4, 7, 3, 5], 3, 2, id="four documents"),
    pytest.param(0, [4, 3, 3], 3, 1, id="no prefix"),
    pytest.param(3, [4, 3, 6], 0, 2, id="no suffix"),
    pytest.param(2, [6], 2, 2, id="one document"),
    pytest.param(1, [1, 1, 1], 1, 2, id="documents of one token"),
    pytest.param(2, [70, 1, 3], 2, 1, id="very unequal documents"),
    pytest.param(0, [3, 3], 0, 1, id="nothing but documents"),
]


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test by the compiled loops and by plain torch."""
    if request.param == "torch":
        monkeypatch.setattr(cpu, "available", lambda query: False)


def tensors(tokens: int, seed: int = 0, dim: int = DIM) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((HEADS, tokens, dim), (KV_HEADS, tokens, dim), (KV_HEADS, tokens, dim))
    return tuple(torch.randn(1, *shape, generator=generator) for shape in shapes)


def segments_of(prefix: int, lengths: list[int], suffix: int) -> Segments:
    documents = tuple((place,) * length for place, length in enumerate(lengths))
    return Segments((0,) * prefix, documents, (0,) * suffix)


def read(reading: Pine, layer: Layer, prompt: int, qkv: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Read the prompt at once and the rest token by token."""
    tokens = qkv[0].shape[2]
    rows = [slice(0, prompt), *(slice(t, t + 1) for t in range(prompt, tokens))]
    return torch.cat([reading.read(layer, *(x[:, :, r] for x in qkv)) for r in rows], 2)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("dim", [8, 12])
@pytest.mark.parametrize(("prefix", "lengths", "suffix", "steps"), CUTS)
def test_equals_the_oracle(prefix, lengths, suffix, steps, dim, layout) -> None:
    prompt = prefix + sum(lengths) + suffix
    qkv = tensors(prompt + steps, dim=dim)
    layer = Layer(0, RotaryGeometry(INV_FREQ, layout), SCALING)
    oracle = PineOracle(prefix, lengths, Rotary(INV_FREQ, layout), SCALING)
    expected = oracle.attention(*(x[0] for x in qkv))
    found = read(Pine(segments_of(prefix, lengths, suffix)), layer, prompt, qkv)
    torch.testing.assert_close(found[0].double(), expected, atol=2e-5, rtol=0)


def test_small_row_blocks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, prompt = [9, 14, 6], 4 + 29 + 8
    qkv, layer = tensors(prompt + 1), Layer(0, RotaryGeometry(INV_FREQ), SCALING)
    whole = read(Pine(segments_of(4, lengths, 8)), layer, prompt, qkv)
    monkeypatch.setattr(blocks, "ROWS_BUDGET", 1)
    for module in (groups, document_rows, compiled):
        monkeypatch.setattr(module, "BUDGET", 1)
    pieces = read(Pine(segments_of(4, lengths, 8)), layer, prompt, qkv)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


def test_the_suffix_in_one_piece_or_token_by_token() -> None:
    qkv, layer = tensors(2 + 12 + 6), Layer(0, RotaryGeometry(INV_FREQ), SCALING)
    once = read(Pine(segments_of(2, [5, 4, 3], 6)), layer, 20, qkv)
    later = read(Pine(segments_of(2, [5, 4, 3], 0)), layer, 14, qkv)
    torch.testing.assert_close(later, once, atol=1e-5, rtol=0)


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    prompt, layer = 2 + 12 + 3, Layer(0, RotaryGeometry(INV_FREQ), SCALING)
    one, other = tensors(prompt + 1, seed=1), tensors(prompt + 1, seed=2)
    both = tuple(torch.cat(pair) for pair in zip(one, other, strict=True))
    cut = segments_of(2, [5, 4, 3], 3)
    found = read(Pine(cut), layer, prompt, both)
    for row, alone in enumerate((one, other)):
        expected = read(Pine(cut), layer, prompt, alone)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=0)


def test_soft_capped_scores_reach_both_products() -> None:
    prompt = 2 + 9 + 2
    qkv = tensors(prompt)
    free, capped = (Layer(0, RotaryGeometry(INV_FREQ), SCALING, cap) for cap in (None, 0.5))
    wide = Layer(0, RotaryGeometry(INV_FREQ), SCALING, 1e4)
    cut = segments_of(2, [4, 3, 2], 2)
    outputs = [read(Pine(cut), layer, prompt, qkv) for layer in (free, wide, capped)]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=0)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-2


def run(door, documents: list[tuple[int, ...]], steps: int = 4) -> list[torch.Tensor]:
    """Return last-token logits of prefill and some greedy steps."""
    segments = Segments((1, 5, 9), tuple(documents), (3, 8, 2)).canonical()
    reading, ids, found = Pine(segments), torch.tensor([segments.ids]), []
    for _ in range(steps):
        found.append(door.forward(ids, reading)[0, -1])
        ids = found[-1].argmax().view(1, 1)
    return found


DOCUMENTS = [(4, 5, 6, 7), (9, 8), (4, 5, 6), (9, 8), (30,) * 40]


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_permuting_documents_leaves_logits_bitwise_equal(build, dtype) -> None:
    door = open_door(build().to(dtype))
    assert door.refusal is None
    expected = run(door, DOCUMENTS)
    for order in itertools.islice(itertools.permutations(DOCUMENTS), 1, 120, 17):
        found = run(door, list(order))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@torch.inference_mode()
def test_without_canonical_order_the_bits_do_change() -> None:
    """The planted fault: what the law above would miss if it could not fail."""
    door = open_door(tiny_llama())

    def logits(documents: list[tuple[int, ...]]) -> torch.Tensor:
        segments = Segments((1, 5, 9), tuple(documents), (3, 8, 2))
        return door.forward(torch.tensor([segments.ids]), Pine(segments))

    documents = [tuple(range(d, d + 9 + d)) for d in range(6)]
    assert not torch.equal(logits(documents), logits(documents[::-1]))


@given(
    documents=st.lists(
        st.lists(st.integers(0, 127), min_size=1, max_size=12).map(tuple), min_size=1, max_size=5
    ),
    seed=st.integers(0, 9),
)
@settings(max_examples=15, deadline=None)
def test_any_documents_in_any_order(documents: list[tuple[int, ...]], seed: int) -> None:
    door = open_door(tiny_llama())
    generator = torch.Generator().manual_seed(seed)
    shuffled = [documents[i] for i in torch.randperm(len(documents), generator=generator)]
    with torch.inference_mode():
        one, other = run(door, documents, 2), run(door, shuffled, 2)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_report_points_to_the_callers_documents() -> None:
    segments = Segments((1,), ((9,), (3,), (5,)), (2,)).canonical()
    assert Pine(segments).report() == {"pine": {"documents": 3, "canonical_order": [1, 2, 0]}}
