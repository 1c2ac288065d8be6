"""Two answers shown part by part in turn (spec portia-and-judge 1, step 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """One part of one answer.

    slot  0 = the answer that is shown first
    part  counted from 1
    """

    slot: int
    part: int
    text: str


def interleave(first_parts: Sequence[str], second_parts: Sequence[str]) -> list[Piece]:
    """Return part 1 of the first answer, part 1 of the second, part 2 of the first, ...

    returns  a slot's texts in their order, joined, are that answer
    raises   ValueError  if the answers have different numbers of parts
    """
    if len(first_parts) != len(second_parts):
        raise ValueError(
            "both answers must have the same number of parts, "
            f"got {len(first_parts)} and {len(second_parts)}; cut them with align"
        )
    return [
        Piece(slot, part, text)
        for part, texts in enumerate(zip(first_parts, second_parts, strict=True), start=1)
        for slot, text in enumerate(texts)
    ]
