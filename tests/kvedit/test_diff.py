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


BLOCK, NAME = list(range(30)), list(range(100, 112))  # a function, and another


def test_copies_are_kept_each_where_it_stands() -> None:
    old = [200, *BLOCK, 201, *BLOCK, 202, *BLOCK, 203]
    changes = [Hunk(at, at + 1, (900 + at,)) for at in (0, 31, 62, 93)]
    assert hunks(old, apply(old, changes)) == tuple(changes)


def test_copies_that_came_are_told_from_those_that_were_there() -> None:
    """The block stands three times here and twice there, but between the same lines once."""
    old = [200, *BLOCK, 201, *NAME, 202, *BLOCK, 203, *NAME[::-1], 204]
    changes = [
        Hunk(0, 1, (900,)),
        Hunk(31, 32, (901,)),
        Hunk(44, 45, (902,)),
        Hunk(75, 76, (903,)),
        Hunk(88, 89, (*range(300, 310), *BLOCK, 905)),
    ]
    assert hunks(old, apply(old, changes)) == tuple(changes)


def test_a_run_that_begins_within_what_is_kept_is_not_kept_twice() -> None:
    old, new = [*range(1, 9), 99, 7, 8, *range(50, 58)], [*range(1, 9), *range(50, 58)]
    for around in ([], [300], [300, 301]):
        one, other = [*around, *old, *around[::-1]], [*around[::-1], *new, *around]
        for old_text, new_text in ((one, other), (other, one)):
            found = hunks(old_text, new_text)
            assert apply(old_text, found) == new_text
            assert all(hunk.start <= hunk.stop for hunk in found)


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_that_changed_places_the_longer_one_is_kept(swapped: bool) -> None:
    texts = [*BLOCK, *NAME], [*NAME, *BLOCK]
    old, new = texts[::-1] if swapped else texts
    kept = [one for hunk in hunks(old, new) for one in old[hunk.start : hunk.stop]]
    assert kept == NAME


@given(
    old=st.lists(st.integers(0, 2), min_size=8, max_size=60),
    cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6),
    join=st.integers(1, 9),
)
def test_a_text_made_of_pieces_of_another(
    old: list[int], cuts: list[tuple[int, int]], join: int
) -> None:
    new = [one for first, last in cuts for one in old[first:last]]
    assert apply(old, hunks(old, new, join)) == new


def test_any_text_is_compared_in_near_linear_time() -> None:
    """In a tenth of a second or so; every token beside every other would take minutes."""
    draw, count = random.Random(5), 16_000
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
    assert time.process_time() - begin < 20
