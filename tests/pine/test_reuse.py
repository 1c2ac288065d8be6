"""Reuse changes no bit: prompts are cut at the same places, whatever is on the shelf."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from models import tiny_llama

from kvedit.hf import Door, open_door
from kvedit.reuse import SMALLEST_BLOCK, SMALLEST_PREFIX
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from pine.reading import Piece, PineReading

PREFIX = tuple(range(1, 71))
DOCUMENTS = tuple(tuple(range(d, d + 20 + d)) for d in range(5))
QUESTIONS = ((3, 8, 2), (90, 91, 92, 93, 94))


@pytest.fixture(scope="module")
def door() -> Door:
    return open_door(tiny_llama())


def prompt(
    question: tuple[int, ...], documents: tuple[tuple[int, ...], ...] = DOCUMENTS
) -> Segments:
    return Segments(PREFIX, documents, question).canonical()


@torch.inference_mode()
def answer(door: Door, segments: Segments, shelf: Shelf | None) -> tuple[list[torch.Tensor], int]:
    """Return the logits of the prompt's last token and of three more, and what was cached."""
    reading, found = PineReading(segments, shelf), []
    pieces = reading.pieces(len(segments.ids))
    for piece in pieces:
        logits = door.forward(torch.tensor([segments.ids[piece.start : piece.stop]]), reading)
    for _ in range(3):
        found.append(logits[0, -1])
        logits = door.forward(logits[0, -1].argmax().view(1, 1), reading)
    return [*found, logits[0, -1]], pieces[0].start


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_block_comes_back_in_any_order_with_another_question(door: Door) -> None:
    shelf = Shelf(1 << 24)
    _, cached = answer(door, prompt(QUESTIONS[0]), shelf)
    assert cached == 0
    fresh, _ = answer(door, prompt(QUESTIONS[1]), None)
    again, cached = answer(door, prompt(QUESTIONS[1], DOCUMENTS[::-1]), shelf)
    assert cached == len(PREFIX) + sum(map(len, DOCUMENTS))
    assert same(again, fresh)


def test_the_prefix_comes_back_with_other_documents(door: Door) -> None:
    shelf, others = Shelf(1 << 24), tuple(document[::-1] for document in DOCUMENTS)
    answer(door, prompt(QUESTIONS[0]), shelf)
    fresh, _ = answer(door, prompt(QUESTIONS[0], others), None)
    again, cached = answer(door, prompt(QUESTIONS[0], others), shelf)
    assert cached == len(PREFIX)
    assert same(again, fresh)


def test_answers_do_not_write_on_what_they_share(door: Door) -> None:
    shelf = Shelf(1 << 24)
    first, _ = answer(door, prompt(QUESTIONS[0]), shelf)
    for _ in range(2):
        answer(door, prompt(QUESTIONS[1]), shelf)
    again, _ = answer(door, prompt(QUESTIONS[0]), shelf)
    assert same(again, first)


def test_cut_or_whole_agree_to_rounding(door: Door) -> None:
    segments = prompt(QUESTIONS[0])
    cut, _ = answer(door, segments, None)
    with torch.inference_mode():
        whole = door.forward(torch.tensor([segments.ids]), PineReading(segments))[0, -1]
    torch.testing.assert_close(cut[0], whole, atol=2e-5, rtol=0)


def test_a_full_shelf_only_costs_time(door: Door) -> None:
    shelf = Shelf(1000)
    one, _ = answer(door, prompt(QUESTIONS[0]), shelf)
    other, cached = answer(door, prompt(QUESTIONS[0]), shelf)
    assert cached == 0
    assert shelf.used == 0
    assert same(one, other)


def cuts(prefix: int, document: int, suffix: int) -> tuple[int, ...]:
    segments = Segments((1,) * prefix, ((2,) * document,), (3,) * suffix)
    return tuple(piece.start for piece in PineReading(segments).pieces(len(segments.ids)))


def test_small_prompts_are_not_cut() -> None:
    assert cuts(1, 2, 1) == (0,)
    assert cuts(SMALLEST_PREFIX - 1, 9, 1) == (0,)
    assert cuts(SMALLEST_PREFIX, 9, 1) == (0, SMALLEST_PREFIX)
    assert cuts(9, SMALLEST_BLOCK - 9, 1) == (0, SMALLEST_BLOCK)


def test_where_nothing_comes_behind_the_block_it_is_not_cut_off() -> None:
    """There a forward of no tokens would follow, and give no logits."""
    assert cuts(70, 200, 0) == (0, 70)
    assert cuts(9, 200, 0) == (0,)


def test_the_same_documents_behind_another_prefix_are_another_block(door: Door) -> None:
    shelf, others = Shelf(1 << 24), PREFIX[::-1]
    answer(door, prompt(QUESTIONS[0]), shelf)
    segments = Segments(others, DOCUMENTS, QUESTIONS[0]).canonical()
    fresh, _ = answer(door, segments, None)
    again, cached = answer(door, segments, shelf)
    assert cached == 0
    assert same(again, fresh)


def test_the_shelf_counts_all_that_it_holds(door: Door) -> None:
    """Keys of the documents twice, raw and turned; and buffers in their full size."""
    shelf, segments = Shelf(1 << 30), prompt(QUESTIONS[0])
    answer(door, segments, shelf)
    held = 0
    for kept in shelf._kept.values():
        assert isinstance(kept.piece, dict)
        held += sum(sum(tensor.nbytes for tensor in buffers(each)) for each in kept.piece.values())
    assert shelf.used == held
    raw = door.model.config.num_key_value_heads * 16 * 4 * sum(map(len, DOCUMENTS))
    assert held > door.model.config.num_hidden_layers * 3 * raw


def buffers(piece: Piece) -> Iterator[torch.Tensor]:
    """Yield what a piece holds in memory."""
    assert piece.prefix._keys is not None and piece.prefix._values is not None
    yield from (piece.prefix._keys, piece.prefix._values)
    if piece.documents is not None:
        yield from (piece.documents.raw, piece.documents.framed, piece.documents.values)
