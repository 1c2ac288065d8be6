"""PINE in a part of the layers: the others read the text as it lies, in canonical order."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from models import in_dtype, tiny_llama
from oracles import PineOracle, attention_at, rotary_of, seen_in_window
from reads import HALF, close, each_executor, vectors
from torch import Tensor

from kvedit.executors import Executor
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.torch import TorchExecutor
from kvedit.hf import Door, open_door
from kvedit.plain import PlainReading
from kvedit.reading import Layer, Reading
from kvedit.segments import Ids, Segments
from kvedit.shelf import Shelf
from pine.reading import PineReading

NEAR = 2e-5
LAYER = Layer(0, HALF, 0.5)
PREFIX = tuple(range(1, 71))
DOCUMENTS = tuple(tuple(range(d, d + 20 + d)) for d in range(5))
QUESTIONS = ((3, 8, 2), (90, 91, 92, 93, 94))
PARTS = [(0, 1), (1, 2), (0, 2)]


@each_executor
@pytest.mark.parametrize("forwards", [(25,), (6, 14, 5), (20, *[1] * 5)])
def test_each_layer_equals_its_oracle(executor: Executor, forwards: tuple[int, ...]) -> None:
    lengths = [5, 3, 6]
    segments = Segments((0,) * 6, tuple((d,) * n for d, n in enumerate(lengths)), (0,) * 5)
    reading, found = PineReading(segments, layers=(1, 3)), dict[int, list[Tensor]]()
    inputs = [vectors(25, seed=index) for index in range(4)]
    for first, last in itertools.pairwise(itertools.accumulate(forwards, initial=0)):
        for index, qkv in enumerate(inputs):
            layer = replace(LAYER, index=index)
            query, key, value = (each[:, :, first:last] for each in qkv)
            rows = reading.rows(layer, key, value)
            found.setdefault(index, []).append(executor.read(layer, query, rows))
    rotary = rotary_of(HALF)
    for index, qkv in enumerate(inputs):
        if index in (1, 2):
            expected = PineOracle(6, lengths, rotary, 0.5).attention(*(each[0] for each in qkv))
        else:
            expected = attention_at(qkv, seen_in_window(), rotary, 0.5)
        close(torch.cat(found[index], 2)[0].double(), expected, NEAR)


@pytest.fixture(scope="module", params=["torch", "cpu", "cpu, bfloat16"])
def door(request: pytest.FixtureRequest) -> Door:
    name, _, half = request.param.partition(", ")
    executors: dict[str, Executor] = {"torch": TorchExecutor(), "cpu": CpuExecutor()}
    return open_door(
        in_dtype(tiny_llama(), torch.bfloat16 if half else torch.float32), executors[name]
    )


@torch.inference_mode()
def answer(
    door: Door,
    documents: tuple[Ids, ...],
    question: Ids,
    layers: tuple[int, int] | None,
    shelf: Shelf | None = None,
) -> tuple[list[Tensor], int]:
    """Return the logits of the prompt's last token and of three more, and what was cached."""
    prompt = Segments(PREFIX, documents, question).canonical()
    reading, found = PineReading(prompt, shelf, layers=layers), list[Tensor]()
    pieces = reading.pieces(len(prompt.ids))
    for piece in pieces:
        logits = door.forward(torch.tensor([prompt.ids[piece.start : piece.stop]]), reading)
    for _ in range(3):
        found.append(logits[0, -1])
        logits = door.forward(logits[0, -1].argmax().view(1, 1), reading)
    return [*found, logits[0, -1]], pieces[0].start


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("layers", PARTS)
def test_every_order_gives_the_same_bits(door: Door, layers: tuple[int, int]) -> None:
    one, _ = answer(door, DOCUMENTS, QUESTIONS[0], layers)
    for order in ((4, 3, 2, 1, 0), (2, 0, 4, 1, 3)):
        permuted = tuple(DOCUMENTS[place] for place in order)
        assert same(answer(door, permuted, QUESTIONS[0], layers)[0], one)


def test_all_layers_are_what_no_number_is(door: Door) -> None:
    every, none = (answer(door, DOCUMENTS, QUESTIONS[0], layers)[0] for layers in ((0, 2), None))
    assert same(every, none)
    assert not same(every, answer(door, DOCUMENTS, QUESTIONS[0], (0, 1))[0])


@pytest.mark.parametrize("layers", PARTS)
def test_reuse_changes_no_bit(door: Door, layers: tuple[int, int]) -> None:
    shelf, others = Shelf(1 << 24), DOCUMENTS[:3]
    first, _ = answer(door, DOCUMENTS, QUESTIONS[0], layers, shelf)
    for documents, cached in ((DOCUMENTS[::-1], 180), (others, 70)):
        fresh, _ = answer(door, documents, QUESTIONS[1], layers)
        again, found = answer(door, documents, QUESTIONS[1], layers, shelf)
        assert found == cached
        assert same(again, fresh)
    assert same(answer(door, DOCUMENTS, QUESTIONS[0], layers, shelf)[0], first)


def test_other_layers_share_the_prefix_alone(door: Door) -> None:
    shelf = Shelf(1 << 24)
    answer(door, DOCUMENTS, QUESTIONS[0], (0, 1), shelf)
    fresh, _ = answer(door, DOCUMENTS, QUESTIONS[0], (1, 2))
    again, cached = answer(door, DOCUMENTS, QUESTIONS[0], (1, 2), shelf)
    assert cached == len(PREFIX)
    assert same(again, fresh)


@torch.inference_mode()
def test_beside_others_it_reads_as_alone(door: Door) -> None:
    prompt = Segments(PREFIX, DOCUMENTS, QUESTIONS[0]).canonical()
    text = torch.tensor([prompt.ids])
    expected = door.forward(text, PineReading(prompt, layers=(1, 2)))[0, -1]
    readings: list[Reading] = [PlainReading(), PineReading(prompt, layers=(1, 2))]
    logits, failed = door.together([text[:, :40], text], readings)
    assert not failed
    allowed = NEAR if expected.dtype == torch.float32 else 0.1
    close(logits[1, 0], expected, allowed)
