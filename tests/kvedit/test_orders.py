"""Orders made from the canonical one: a Latin square, or as many of it as are wanted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvedit.orders import USUAL, orders


@given(st.integers(1, 9))
def test_all_rotations_are_a_latin_square(count: int) -> None:
    square = orders(count, count)
    assert square[0] == tuple(range(count))
    for lines in (square, tuple(zip(*square, strict=True))):
        assert all(sorted(line) == list(range(count)) for line in lines)


@given(st.integers(1, 12), st.integers(1, 30))
def test_orders_differ_and_are_as_many_as_there_can_be(count: int, wanted: int) -> None:
    found = orders(count, wanted)
    assert len(set(found)) == len(found)
    assert len(found) == min(wanted, 2 * count if count > 2 else count)
    assert all(sorted(order) == list(range(count)) for order in found)


def test_few_are_spread_evenly() -> None:
    assert [order[0] for order in orders(8, 4)] == [0, 2, 4, 6]
    assert orders(3, 5) == ((0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0), (1, 0, 2))


@given(st.integers(1, 12))
def test_nobody_said_how_many(count: int) -> None:
    assert len(orders(count)) == min(count, USUAL)
