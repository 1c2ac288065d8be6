"""One ranking out of many (spec portia-and-judge 3): Kemeny where it is exact, Borda above.

Candidates are known by their index. Sums are `math.fsum` and ties are broken by a key of the caller
(the candidates' texts), so that neither the order of the rankings nor the numbering changes a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum
from typing import Literal

MOST_EXACT = 12  # candidates; the programme costs O(n 2^n)

Preferences = Sequence[Sequence[float]]  # [candidate, candidate] weight of: the first is better


@dataclass(frozen=True, slots=True)
class Consensus:
    """The ranking that disagrees least.

    order         candidate indices, best first
    disagreement  weight of the pairwise preferences that it contradicts
    method        kemeny  no ranking has less; of equals, the first by the keys of its candidates
                  borda   by wins minus losses; of equals, by their keys
    """

    order: tuple[int, ...]
    disagreement: float
    method: Literal["kemeny", "borda"]


def rank(preferences: Preferences, key: Sequence[str] | None = None) -> Consensus:
    """Return the consensus of pairwise preferences, exact up to MOST_EXACT candidates.

    key  one per candidate, to break ties by; without it they are broken by the numbering
    """
    if len(preferences) > MOST_EXACT:
        return borda(preferences, key)
    return kemeny(preferences, key)


def preferences(
    rankings: Sequence[Sequence[int]], count: int, weights: Sequence[float] | None = None
) -> tuple[tuple[float, ...], ...]:
    """Return the weight of the rankings that put one candidate before another.

    rankings  candidate indices, best first; one that leaves out candidates says nothing of them
    count     number of candidates
    weights   one per ranking, or None for one each
    raises    ValueError  if a ranking names a candidate twice or one that does not exist
    """
    weights = [1.0] * len(rankings) if weights is None else weights
    found: dict[tuple[int, int], list[float]] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        if len(set(ranking)) < len(ranking) or not set(ranking) <= set(range(count)):
            raise ValueError(
                f"a ranking must name each of the {count} candidates at most once, "
                f"got {list(ranking)}; number them from 0"
            )
        for pair in combinations(ranking, 2):
            found.setdefault(pair, []).append(weight)
    return tuple(
        tuple(fsum(found.get((one, other), ())) for other in range(count)) for one in range(count)
    )


def kemeny(preferences: Preferences, key: Sequence[str] | None = None) -> Consensus:
    """Return the ranking that contradicts the least weight of preferences (Kemeny 1959), exactly.

    Sets of candidates are bit masks. least[S] is the least weight that is contradicted among the
    last |S| places, if S stands there: `min over c in S of least[S - c] + against[c][S - c]`, where
    c is the first of them and `against` adds up who in S - c was preferred to c.
    raises  ValueError  above MOST_EXACT candidates
    """
    count = len(preferences)
    if count > MOST_EXACT:
        raise ValueError(
            f"kemeny must have at most {MOST_EXACT} candidates, got {count}; use borda"
        )
    places = _by_key(count, key)
    against = [_sums([preferences[other][one] for other in places]) for one in places]
    least, firsts = [0.0], [0]
    for members in range(1, 1 << count):
        costs = [
            (least[members ^ 1 << one] + against[one][members ^ 1 << one], one)
            for one in range(count)
            if members >> one & 1
        ]
        cost, first = min(costs)
        least.append(cost)
        firsts.append(first)
    order, members = [], (1 << count) - 1
    while members:
        order.append(places[firsts[members]])
        members ^= 1 << firsts[members]
    return Consensus(tuple(order), _disagreement(order, preferences), "kemeny")


def borda(preferences: Preferences, key: Sequence[str] | None = None) -> Consensus:
    """Return the candidates by the weight of their wins minus their losses (Borda's count)."""
    everyone = range(len(preferences))
    lead = [
        fsum(preferences[one]) - fsum(preferences[other][one] for other in everyone)
        for one in everyone
    ]
    order = sorted(_by_key(len(preferences), key), key=lambda one: -lead[one])
    return Consensus(tuple(order), _disagreement(order, preferences), "borda")


def _by_key(count: int, key: Sequence[str] | None) -> list[int]:
    """Return the candidates in the canonical order, on which everything is computed."""
    return sorted(range(count), key=None if key is None else key.__getitem__)


def _sums(values: Sequence[float]) -> list[float]:
    """Return the sum of the values in each set of them, by its bit mask."""
    sums = [0.0]
    for value in values:
        sums += [below + value for below in sums]
    return sums


def _disagreement(order: Sequence[int], preferences: Preferences) -> float:
    return fsum(preferences[worse][better] for better, worse in combinations(order, 2))
