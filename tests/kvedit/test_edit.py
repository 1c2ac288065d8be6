"""Slots and staleness against what they stand for, spelled out token by token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from edits import random_changes
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import stale_tokens

from kvedit.diff import Hunk, apply
from kvedit.edit import MOST_PIECES, WASTE, Layout, Piece, Record


def put(layout: Layout, changes: Sequence[Hunk], slots: dict[int, int]) -> None:
    """Edit, and write what is new into the slots that it was given."""
    layout.apply(changes)
    moved = 0
    for hunk in changes:
        begin = hunk.start + moved
        moved += hunk.change
        where = layout.between(begin, begin + len(hunk.ids))
        numbers = [slot for piece in where for slot in range(piece.slot, piece.end)]
        slots.update(zip(numbers, hunk.ids, strict=True))


def text_of(layout: Layout, slots: dict[int, int]) -> list[int]:
    return [slots[slot] for piece in layout.pieces for slot in range(piece.slot, piece.end)]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_slots_hold_the_text_whatever_was_done_to_it(seed: int) -> None:
    draw, layout, slots, ids = random.Random(seed), Layout(), dict[int, int](), list[int]()
    for step in range(30):
        changes = random_changes(draw, len(ids), 1 << 30)
        ids = apply(ids, changes)
        put(layout, changes, slots)
        assert text_of(layout, slots) == ids
        assert layout.length == len(ids)
        taken = sorted(layout.pieces, key=lambda piece: piece.slot)
        assert all(one.end <= other.slot for one, other in pairwise(taken))
        assert all(one.end != other.slot for one, other in pairwise(layout.pieces))
        first = draw.randint(0, len(ids))
        last = draw.randint(first, len(ids))
        inside = [slots[s] for p in layout.between(first, last) for s in range(p.slot, p.end)]
        assert inside == ids[first:last]
        if step % 10 == 9:
            layout.renew()
            slots = dict(enumerate(ids))
            assert layout.pieces == ([Piece(0, len(ids))] if ids else [])


def test_the_examples_of_the_docstring() -> None:
    layout = Layout()
    layout.append(9)
    assert layout.pieces == [Piece(0, 9)]
    layout.apply([Hunk(4, 5, (1, 2))])
    assert layout.pieces == [Piece(0, 4), Piece(9, 2), Piece(5, 4)]
    layout.apply([Hunk(4, 6, (3,))])
    assert layout.pieces == [Piece(0, 9)]


def test_an_edit_and_its_inverse_leave_one_piece() -> None:
    layout = Layout()
    layout.append(50)
    layout.apply([Hunk(20, 20, (1,) * 7)])
    layout.apply([Hunk(20, 27, ())])
    assert layout.pieces == [Piece(0, 50)]


def test_typing_makes_one_piece_and_as_many_tokens_for_others_none() -> None:
    layout = Layout()
    layout.append(50)
    for typed in range(10):
        layout.apply([Hunk(20 + typed, 20 + typed, (1,))])
    assert layout.pieces == [Piece(0, 20), Piece(50, 10), Piece(20, 30)]
    layout.apply([Hunk(40, 43, (1, 2, 3))])
    assert len(layout.pieces) == 3


def test_what_was_cut_off_the_end_is_free_again() -> None:
    layout = Layout()
    for _ in range(100):
        layout.append(40)
        layout.apply([Hunk(10, layout.length, ())])
    assert layout.pieces == [Piece(0, 10)]


def test_it_is_scattered_by_pieces_or_by_slots_that_nobody_reads() -> None:
    layout = Layout()
    layout.append(100)
    for place in range(MOST_PIECES // 2):
        assert not layout.scattered
        layout.apply([Hunk(90 - 10 * place, 90 - 10 * place, (1,))])
    assert layout.scattered
    layout = Layout()
    layout.append(2 * WASTE)
    layout.apply([Hunk(3, 2 * WASTE - 3, ())])
    assert layout.scattered


@pytest.mark.parametrize("names", [3, 1 << 40])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_staleness_is_what_computing_all_of_it_would_change(seed: int, names: int) -> None:
    """With few names texts come back, as when an edit is undone: then nothing is stale."""
    draw, record, ids, history = random.Random(seed), Record(), list[int](), list[object]()
    computed: list[bool] = []
    for _ in range(12):
        changes = random_changes(draw, len(ids), names)
        ids = apply(ids, changes)
        record.apply(changes)
        for hunk in reversed(changes):
            history.append(("put", (hunk.start, hunk.stop), hunk.ids))
            computed[hunk.start : hunk.stop] = [False] * len(hunk.ids)
        now = [n for n in range(len(ids)) if not computed[n] or draw.random() < 0.3]
        record.computed(now)
        history.append(("compute", now, ()))
        computed = [True] * len(ids)
        expected = stale_tokens(history)  # type: ignore[arg-type]
        assert list(record.stale) == expected
        assert record.first_stale == (expected[0] if expected else None)
        assert set(record.outdated) <= set(expected) - set(now)


def test_what_is_computed_behind_stale_tokens_is_stale_but_not_outdated() -> None:
    record = Record()
    record.apply([Hunk(0, 0, tuple(range(6)))])
    record.computed(range(6))
    record.apply([Hunk(2, 3, (9,))])
    record.computed([2, 4])
    assert list(record.stale) == [3, 4, 5]
    assert list(record.outdated) == [3, 5]
    record.computed([3, 4, 5])
    assert list(record.stale) == []


def test_tokens_that_nobody_names_are_like_no_other() -> None:
    record = Record()
    for _ in range(3):
        record.append(1)
        record.apply([Hunk(1, 1, (7,))])
        record.computed([0, 1])
        assert list(record.stale) == []
        record.apply([Hunk(0, 1, ())])
        assert list(record.stale) == [0]
        record.append(1)
        record.computed([1])
        record.apply([Hunk(0, 2, ())])
        assert list(record.stale) == []
