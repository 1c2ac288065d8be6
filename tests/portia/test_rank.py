"""Rankings: Kemeny equals exhaustive search, and the numbering does not matter."""

from __future__ import annotations

import itertools
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portia.rank import MOST_EXACT, borda, kemeny, preferences, rank

NAMES = "abcde"
rankings_of_five = st.lists(
    st.tuples(st.permutations(range(5)), st.integers(0, 5)).map(lambda cut: cut[0][: cut[1]]),
    max_size=6,
)


def contradicted(order: tuple[int, ...], weights: tuple[tuple[float, ...], ...]) -> float:
    return sum(weights[worse][better] for better, worse in itertools.combinations(order, 2))


@given(rankings_of_five)
def test_kemeny_equals_exhaustive_search(rankings: list[list[int]]) -> None:
    weights = preferences(rankings, 5)
    found = kemeny(weights, NAMES)
    costs = {order: contradicted(order, weights) for order in itertools.permutations(range(5))}
    least = min(costs.values())
    assert found.disagreement == costs[found.order] == least
    assert found.order == min(order for order, cost in costs.items() if cost == least)


@given(rankings_of_five, st.permutations(range(5)), st.randoms(use_true_random=False))
def test_renumbering_the_candidates_renumbers_the_ranking(
    rankings: list[list[int]], number: list[int], random: Random
) -> None:
    weights = [0.1 * (place + 1) for place in range(len(rankings))]
    cast = list(zip(rankings, weights, strict=True))
    random.shuffle(cast)
    renamed = [[number[index] for index in ranking] for ranking, _ in cast]
    names = [NAMES[number.index(index)] for index in range(5)]
    for method in (kemeny, borda):
        one = method(preferences(rankings, 5, weights), NAMES)
        other = method(preferences(renamed, 5, [weight for _, weight in cast]), names)
        assert other.order == tuple(number[index] for index in one.order)
        assert other.disagreement == one.disagreement


def test_the_order_of_the_rankings_changes_no_bit_of_their_weights() -> None:
    weights = [0.1, 0.2, 0.3, 0.4, 0.5]
    found = {preferences([[1, 0]] * 5, 2, list(order)) for order in itertools.permutations(weights)}
    assert found == {((0.0, 0.0), (1.5, 0.0))}


def test_a_majority_can_contradict_borda() -> None:
    rankings = [[0, 1, 2]] * 3 + [[1, 2, 0]] * 2
    weights = preferences(rankings, 3)
    assert kemeny(weights).order == (0, 1, 2)
    assert borda(weights).order == (1, 0, 2)


def test_above_twelve_candidates_borda_ranks() -> None:
    exact, many = range(MOST_EXACT), range(MOST_EXACT + 1)
    start = time.perf_counter()
    found = rank(preferences([list(exact), list(exact), list(exact)[::-1]], MOST_EXACT))
    assert time.perf_counter() - start < 1.0
    assert (found.method, found.order) == ("kemeny", tuple(exact))
    found = rank(preferences([list(many)[::-1]], len(many)))
    assert (found.method, found.order) == ("borda", tuple(many)[::-1])
    with pytest.raises(
        ValueError, match="kemeny must have at most 12 candidates, got 13; use borda"
    ):
        kemeny(preferences([], 13))


def test_a_ranking_says_nothing_of_whom_it_leaves_out() -> None:
    assert preferences([[2, 0]], 3) == ((0, 0, 0), (0, 0, 0), (1, 0, 0))
    assert kemeny(preferences([[2, 0]], 3), ["c", "b", "a"]).order == (2, 1, 0)


@pytest.mark.parametrize("ranking", [[0, 0], [3], [-1]])
def test_a_ranking_of_others_is_refused(ranking: list[int]) -> None:
    with pytest.raises(ValueError, match="a ranking must name each of the 3 candidates"):
        preferences([ranking], 3)
