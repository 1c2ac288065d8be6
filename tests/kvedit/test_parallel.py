"""Parallel encoding against the float64 oracle; and a document that is cached serves in any set."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import in_dtype, tiny_llama
from oracles import Rotary, attention_at, rotary_of, seen_in_parallel
from reads import EXECUTORS, HALF, INV_FREQ, close, each_executor, each_layer, ids, read, vectors
from torch import Tensor

from kvedit.executors import Executor
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.torch import TorchExecutor
from kvedit.hf import Door, open_door
from kvedit.parallel import SMALLEST_DOCUMENT, SMALLEST_PREFIX, ParallelReading
from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind, Reading
from kvedit.segments import Ids, Segments
from kvedit.shelf import Shelf

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 2e-5
LAYER = Layer(0, HALF, 0.5)


def segments(prefix: int, lengths: Sequence[int], suffix: int) -> Segments:
    """Return a prompt of so many tokens, its documents all different."""
    documents = tuple((place,) * length for place, length in enumerate(lengths))
    return Segments((1,) * prefix, documents, (2,) * suffix)


@each_executor
@each_layer
@pytest.mark.parametrize(
    "forwards", [(40,), (6, 9, 4, 11, 10), (6, 24, 4, *[1] * 6), (3, 5, 17, 5, 10)]
)
def test_it_equals_the_oracle(
    executor: Executor, layer: Layer, dim: int, forwards: tuple[int, ...]
) -> None:
    qkv, lengths = vectors(40, dim=dim), [9, 4, 11]
    seen = seen_in_parallel(6, lengths)
    rotary = rotary_of(layer.geometry)
    expected = attention_at(qkv, seen, rotary, layer.scaling, layer.softcap)
    found = read(executor, ParallelReading(segments(6, lengths, 6)), layer, qkv, forwards)
    close(found[0].double(), expected, NEAR)


@given(
    prefix=st.integers(0, 8),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    suffix=st.integers(0, 5),
    cut=st.integers(1, 12),
    executor=st.sampled_from(EXECUTORS),
)
@settings(max_examples=30)
def test_any_lengths_and_cuts_equal_the_oracle(
    prefix: int, lengths: list[int], suffix: int, cut: int, executor: Executor
) -> None:
    count = prefix + sum(lengths) + suffix + 2  # and two tokens of an answer
    forwards = [cut] * (count // cut) + [count % cut] * bool(count % cut)
    qkv = vectors(count, heads=(2, 1))
    expected = attention_at(qkv, seen_in_parallel(prefix, lengths), Rotary(INV_FREQ), 0.5)
    reading = ParallelReading(segments(prefix, lengths, suffix))
    close(read(executor, reading, LAYER, qkv, forwards)[0].double(), expected, NEAR)


PREFIX = tuple(range(1, 41))  # shorter than what is cut off for its own sake
LONG = tuple(tuple(range(d, d + SMALLEST_DOCUMENT + 3 * d)) for d in range(4))
SHORT = ((9, 8, 7), (5, 6, 7, 8))
QUESTIONS = ((3, 8, 2), (90, 91, 92, 93, 94))

Answer = tuple[list[Tensor], int]


@pytest.fixture(scope="module", params=["torch", "cpu", "cpu, bfloat16"])
def door(request: pytest.FixtureRequest) -> Door:
    name, _, half = request.param.partition(", ")
    executors: dict[str, Executor] = {"torch": TorchExecutor(), "cpu": CpuExecutor()}
    return open_door(
        in_dtype(tiny_llama(), torch.bfloat16 if half else torch.float32), executors[name]
    )


@torch.inference_mode()
def answer(
    door: Door, documents: Sequence[Ids], question: Ids, shelf: Shelf | None, prefix: Ids = PREFIX
) -> Answer:
    """Return the logits of the prompt's last token and of three more, and what was cached."""
    prompt = Segments(prefix, tuple(documents), question).canonical()
    reading, found = ParallelReading(prompt, shelf), list[Tensor]()
    pieces = reading.pieces(len(prompt.ids))
    for piece in pieces:
        logits = door.forward(torch.tensor([prompt.ids[piece.start : piece.stop]]), reading)
    for _ in range(3):
        found.append(logits[0, -1])
        logits = door.forward(logits[0, -1].argmax().view(1, 1), reading)
    return [*found, logits[0, -1]], len(prompt.ids) - sum(map(len, pieces))


def same(one: Answer, other: Answer) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))


def test_every_order_gives_the_same_bits(door: Door) -> None:
    documents = (*LONG[:2], *SHORT)
    one = answer(door, documents, QUESTIONS[0], None)
    for order in ((3, 2, 1, 0), (1, 3, 0, 2)):
        assert same(one, answer(door, [documents[place] for place in order], QUESTIONS[0], None))


def test_a_document_comes_back_in_any_set(door: Door) -> None:
    """Also between documents that are new; no bit tells."""
    shelf = Shelf(1 << 28)
    answer(door, LONG[:2], QUESTIONS[0], shelf)
    answer(door, (*LONG[2:3], *SHORT), QUESTIONS[0], shelf)
    for chosen in ((LONG[0], LONG[2]), (*LONG[::-1], *SHORT), (LONG[1], LONG[1])):
        fresh = answer(door, chosen, QUESTIONS[1], None)
        again = answer(door, chosen, QUESTIONS[1], shelf)
        assert again[1] == len(PREFIX) + sum(len(each) for each in chosen if each in LONG[:3])
        assert same(again, fresh)


def test_answers_do_not_write_on_what_they_share(door: Door) -> None:
    shelf = Shelf(1 << 28)
    first = answer(door, (*LONG, *SHORT), QUESTIONS[0], shelf)
    answer(door, LONG, QUESTIONS[1], shelf)
    assert same(answer(door, (*LONG, *SHORT), QUESTIONS[0], shelf), first)


def test_behind_another_prefix_nothing_is_at_hand(door: Door) -> None:
    shelf = Shelf(1 << 28)
    answer(door, LONG, QUESTIONS[0], shelf)
    again = answer(door, LONG, QUESTIONS[0], shelf, PREFIX[::-1])
    assert again[1] == 0
    assert same(again, answer(door, LONG, QUESTIONS[0], None, PREFIX[::-1]))


def test_a_full_shelf_only_costs_time(door: Door) -> None:
    shelf = Shelf(1000)
    one, other = (answer(door, LONG, QUESTIONS[0], shelf) for _ in range(2))
    assert other[1] == shelf.used == 0
    assert same(one, other)


def test_one_document_is_plain_text(door: Door) -> None:
    """With one document every token stands where it stands in the text."""
    found, _ = answer(door, LONG[:1], QUESTIONS[0], None)
    text = torch.tensor([(*PREFIX, *LONG[0], *QUESTIONS[0])])
    with torch.inference_mode():
        expected = door.forward(text, PlainReading())[0, -1]
    allowed = NEAR if expected.dtype == torch.float32 else 0.1
    close(found[0], expected, allowed)


def pieces(prefix: int, lengths: Sequence[int], suffix: int) -> list[tuple[int, int]]:
    prompt = segments(prefix, lengths, suffix)
    return [(each.start, each.stop) for each in ParallelReading(prompt).pieces(len(prompt.ids))]


def test_what_is_shared_is_read_by_itself() -> None:
    long = SMALLEST_DOCUMENT
    assert pieces(5, (3, 4), 6) == [(0, 18)]
    assert pieces(SMALLEST_PREFIX, (3, 4), 6) == [(0, 64), (64, 77)]
    assert pieces(5, (3, long, 4, 2), 6) == [(0, 5), (5, 8), (8, 72), (72, 84)]
    assert pieces(0, (long, long), 1) == [(0, 64), (64, 128), (128, 129)]


def test_what_ends_a_prompt_is_always_read() -> None:
    """Its last token leads to the answer."""
    long = SMALLEST_DOCUMENT
    assert pieces(5, (long, long), 0) == [(0, 5), (5, 69), (69, 133)]
    prompt, shelf = segments(0, (long,), 0), Shelf(1 << 20)
    for _ in range(2):
        assert ParallelReading(prompt, shelf).pieces(long) == (range(long),)


@torch.inference_mode()
def test_beside_others_it_reads_as_alone(door: Door) -> None:
    prompt = Segments(PREFIX, (*LONG[:2], *SHORT), QUESTIONS[0]).canonical()
    text, other = torch.tensor([prompt.ids]), ids(3, 50)
    expected = door.forward(text, ParallelReading(prompt))[0, -1]
    readings: list[Reading] = [PlainReading(), ParallelReading(prompt)]
    logits, failed = door.together([other, text], readings)
    assert not failed
    allowed = NEAR if expected.dtype == torch.float32 else 0.1
    close(logits[1, 0], expected, allowed)


def test_layers_that_are_windows_are_refused() -> None:
    reason = ParallelReading.suits([LayerKind(HALF), LayerKind(HALF, 8)])
    assert reason == "layers [1] see only the last 8 tokens"


def test_the_callers_places_are_reported() -> None:
    prompt = Segments((1,), ((3,), (2,)), (4,)).canonical()
    note = {"documents": 2, "canonical_order": [1, 0]}
    assert ParallelReading(prompt).report() == {"parallel": note}
