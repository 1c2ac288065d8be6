"""Interleaved parts: in turn, and nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portia.interleave import interleave


def test_the_parts_come_in_turn() -> None:
    assert interleave(["x1", "x2"], ["y1", "y2"]) == [
        (0, 1, "x1"),
        (1, 1, "y1"),
        (0, 2, "x2"),
        (1, 2, "y2"),
    ]


@given(st.lists(st.tuples(st.text(), st.text())))
def test_a_slot_keeps_its_parts_and_exchanging_the_answers_exchanges_the_slots(
    pairs: list[tuple[str, str]],
) -> None:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    pieces = interleave(first, second)
    assert [piece.text for piece in pieces if piece.slot == 0] == first
    assert [piece.text for piece in pieces if piece.slot == 1] == second
    mirrored = {(1 - slot, part, text) for slot, part, text in interleave(second, first)}
    assert set(pieces) == mirrored


def test_different_numbers_of_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="the same number of parts, got 2 and 1"):
        interleave(["a", "b"], ["c"])
