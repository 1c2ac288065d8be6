"""Hunks: they turn the old text into the new one, keep what they can, and take linear time."""

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvedit.diff import Hunk, apply, hunks

few = st.lists(st.integers(0, 3), max_size=40)
many = st.lists(st.integers(0, 999), max_size=60)


@given(old=few | many, new=few | many, join=st.integers(1, 9))
def test_hunks_turn_old_into_new(old: list[int], new: list[int], join: int) -> None:
    found = hunks(old, new, join)
    assert apply(old, found) == new
    assert all(hunk.ids or hunk.stop > hunk.start for hunk in found)
    for one, other in pairwise(found):
        assert other.start - one.stop >= join


@given(st.lists(st.integers(0, 3), max_size=40))
def test_equal_texts_have_none(ids: list[int]) -> None:
    assert hunks(ids, ids) == ()


@given(prefix=few, old=few, new=few, suffix=few)
def test_what_both_begin_or_end_with_is_kept(
    prefix: list[int], old: list[int], new: list[int], suffix: list[int]
) -> None:
    whole = prefix + old + suffix
    found = hunks(whole, prefix + new + suffix)
    assert all(hunk.start >= len(prefix) for hunk in found)
    gone = sum(hunk.stop - hunk.start for hunk in found)
    assert len(whole) - gone >= max(len(prefix), len(suffix))


@pytest.mark.parametrize(
    ("changes", "join"),
    [
        ([Hunk(50, 50, (900, 901))], 8),
        ([Hunk(10, 14, ())], 8),
        ([Hunk(10, 12, (900,)), Hunk(20, 20, (901,)), Hunk(70, 75, (902,) * 9)], 8),
        ([Hunk(0, 3, (900,)), Hunk(97, 100, ())], 8),
        ([Hunk(10, 11, (900,)), Hunk(14, 15, (901,))], 3),
    ],
)
def test_edits_are_found_where_they_were_made(changes: list[Hunk], join: int) -> None:
    old = list(range(100))
    assert hunks(old, apply(old, changes), join) == tuple(changes)


def test_edits_with_little_between_are_one() -> None:
    old = list(range(100))
    new = apply(old, [Hunk(10, 11, (900,)), Hunk(18, 19, (901,))])
    assert hunks(old, new, 8) == (Hunk(10, 19, (900, *range(11, 18), 901)),)
    assert len(hunks(old, new, 7)) == 2


def test_what_stands_twice_is_found_within_what_stands_once() -> None:
    """A function that is a copy of another: its lines stand once between the changes around it."""
    body, name = list(range(30)), list(range(100, 112))
    old = [*body, *name, *body, *name[::-1], *body]
    changes = [Hunk(5, 6, (900,)), Hunk(55, 56, (901,)), Hunk(100, 101, (902,))]
    assert hunks(old, apply(old, changes)) == tuple(changes)


def test_any_text_is_compared_in_near_linear_time() -> None:
    """Eight times the tokens take some eight times as long, not 64 times."""
    draw = random.Random(5)

    def spent(count: int) -> float:
        shift = list(range(count))
        pairs = [
            ([draw.randrange(50_000) for _ in range(count)] for _ in range(2)),
            ([1, 2] * (count // 2), [2, 1, 3] * (count // 3)),
            (shift, shift[count // 2 :] + shift[: count // 2]),
            ([draw.randrange(20) for _ in range(count)] for _ in range(2)),
        ]
        begin = time.process_time()
        for old, new in pairs:
            assert apply(old, hunks(old, new)) == new
        return time.process_time() - begin

    assert min(spent(16_000) for _ in range(2)) < 32 * max(spent(2_000) for _ in range(3))
