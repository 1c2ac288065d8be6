"""Orders of a set that are made from its canonical one: whatever was sent, they are the same."""

from __future__ import annotations

Order = tuple[int, ...]
USUAL = 2  # orders of documents, where nobody says how many: each costs a reading of them all


def orders(count: int, wanted: int | None = None) -> tuple[Order, ...]:
    """Return orders of so many things: rotations of the canonical one, then of its reverse.

    wanted  how many, at least 1; None = a rotation for each thing, at most USUAL

    All rotations are a Latin square: everything stands everywhere once. Fewer are spread evenly: 4
    of 8 begin with 0, 2, 4 and 6, so that each thing stands near the beginning, the middle and the
    end. There are 2 x count at most; two things have two orders, one has one.
    """
    wanted = min(count, USUAL) if wanted is None else wanted
    straight = tuple(range(count))
    found: dict[Order, None] = {}
    for order in (straight, straight[::-1]):
        left = min(wanted - len(found), count)
        for step in range(left):
            shift = step * count // left
            found[order[shift:] + order[:shift]] = None
    return tuple(found)
