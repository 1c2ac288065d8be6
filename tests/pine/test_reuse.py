"""Reuse changes no bit: prompts are cut at the same places, whatever is on the shelf."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from models import tiny_llama

from kvedit.hf import Door, open_door
from kvedit.shelf import Shelf
from pine.reading import Pine
from pine.segments import Segments

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
    reading, found = Pine(segments, shelf), []
    borders = reading.borders()
    for first, last in pairwise([*borders, len(segments.ids)]):
        logits = door.forward(torch.tensor([segments.ids[first:last]]), reading)
    for _ in range(3):
        found.append(logits[0, -1])
        logits = door.forward(logits[0, -1].argmax().view(1, 1), reading)
    return [*found, logits[0, -1]], borders[0]


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
        whole = door.forward(torch.tensor([segments.ids]), Pine(segments))[0, -1]
    torch.testing.assert_close(cut[0], whole, atol=2e-5, rtol=0)


def test_a_full_shelf_only_costs_time(door: Door) -> None:
    shelf = Shelf(1000)
    one, _ = answer(door, prompt(QUESTIONS[0]), shelf)
    other, cached = answer(door, prompt(QUESTIONS[0]), shelf)
    assert cached == 0
    assert shelf.used == 0
    assert same(one, other)


def test_small_prompts_are_not_cut() -> None:
    assert Pine(Segments((1,), ((2,), (3,)), (4,))).borders() == (0,)


def test_a_prompt_cannot_be_cut_inside_the_documents(door: Door) -> None:
    segments = prompt(QUESTIONS[0])
    with torch.inference_mode(), pytest.raises(ValueError, match="may be cut"):
        door.forward(torch.tensor([segments.ids[:100]]), Pine(segments))


@torch.inference_mode()
def test_importance_is_told_in_the_callers_order(door: Door) -> None:
    shuffled = DOCUMENTS[3:] + DOCUMENTS[:3]
    found = []
    for documents in (DOCUMENTS, shuffled):
        segments = Segments((1, 2), documents, QUESTIONS[0]).canonical()
        reading = Pine(segments, explain=True)
        door.forward(torch.tensor([segments.ids]), reading)
        found.append(reading.report()["pine"]["importance"])
    assert found[1] == found[0][3:] + found[0][:3]
    # softmax weights over all document tokens sum to one per row; these are means per token
    lengths = [len(document) for document in DOCUMENTS]
    total = sum(share * length for share, length in zip(found[0], lengths, strict=True))
    assert abs(total - 1) < 1e-5
    assert "importance" not in Pine(segments).report()["pine"]
