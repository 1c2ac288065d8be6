"""Strengths from comparisons in pairs, and what standing first is worth (spec portia-and-judge 3).

Bradley and Terry (1952) with an order term: `P(i over j | i first) = s(beta_i - beta_j + b)`, with
s the logistic function. All figures are log-odds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, ndtri

SPREAD = 5.0  # standard deviation of the prior: weak, yet candidates that always win stay finite
COVERED = 0.95

Floats = NDArray[np.float64]


class Comparison(NamedTuple):
    """One verdict on two candidates.

    first   index of the one shown first
    second  index of the other
    score   1 = the first won, 0 = the second won, 0.5 = a tie: half a win for each
    """

    first: int
    second: int
    score: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its standard error and 95 % interval (normal, from the inverse Hessian)."""

    value: float
    error: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Strengths:
    """What the comparisons say.

    candidates  beta per candidate; they sum to zero
    order       b: what standing first adds
    """

    candidates: tuple[Estimate, ...]
    order: Estimate


def fit(
    comparisons: Sequence[Comparison],
    count: int,
    key: Sequence[str] | None = None,
    spread: float = SPREAD,
) -> Strengths:
    """Return the most probable strengths and order term of some comparisons.

    count   number of candidates; one that was never compared has strength 0 and a wide interval
    key     one per candidate (its text): then their numbering changes no bit of the figures
    spread  standard deviation of the Gaussian prior of every figure, in log-odds
    raises  ValueError  if a comparison is not of two candidates, or its score not in 0..1
    """
    _check(comparisons, count)
    places = sorted(range(count), key=None if key is None else key.__getitem__)
    posterior = _Posterior.of(comparisons, places, spread)
    found = minimize(
        posterior.loss,
        np.zeros(count + 1),
        jac=posterior.slope,
        hess=posterior.curvature,
        method="trust-exact",
        options={"gtol": 1e-10},
    )
    centre = np.eye(count + 1)
    centre[:count, :count] -= 1 / count  # only differences of strengths can be seen
    values = centre @ found.x
    inverse = np.linalg.inv(posterior.curvature(found.x) * posterior.scale)
    errors = np.sqrt(np.diag(centre @ inverse @ centre))
    estimates = [_estimate(*pair) for pair in zip(values.tolist(), errors.tolist(), strict=True)]
    by_candidate = sorted(zip(places, estimates[:count], strict=True))
    return Strengths(tuple(estimate for _, estimate in by_candidate), estimates[count])


@dataclass(frozen=True, slots=True)
class _Posterior:
    """Minus the log-posterior, divided by `scale` so that one tolerance fits every amount of data.

    design   [pairs, candidates + 1]  +1 for the first, -1 for the second, +1 for the order term
    wins     [pairs]                  of the first
    losses   [pairs]                  of the first
    precise  1 / spread^2
    """

    design: Floats
    wins: Floats
    losses: Floats
    precise: float

    @classmethod
    def of(
        cls, comparisons: Sequence[Comparison], places: Sequence[int], spread: float
    ) -> _Posterior:
        """Collect the comparisons by pair, in the order of the places."""
        place_of = {candidate: place for place, candidate in enumerate(places)}
        scores: dict[tuple[int, int], list[float]] = {}
        for first, second, score in comparisons:
            scores.setdefault((place_of[first], place_of[second]), []).append(score)
        design = np.zeros((len(scores), len(places) + 1))
        pairs = sorted(scores)
        for row, (first, second) in zip(design, pairs, strict=True):
            row[[first, second, -1]] = 1.0, -1.0, 1.0
        wins = np.array([fsum(scores[pair]) for pair in pairs])
        losses = np.array([len(scores[pair]) for pair in pairs]) - wins
        return cls(design, wins, losses, spread**-2)

    @property
    def scale(self) -> float:
        return float(self.wins.sum() + self.losses.sum() + self.precise)

    def loss(self, figures: Floats) -> float:
        odds = self.design @ figures
        likely = self.wins @ log_expit(odds) + self.losses @ log_expit(-odds)
        return float(self.precise * (figures @ figures) / 2 - likely) / self.scale

    def slope(self, figures: Floats) -> Floats:
        chance = expit(self.design @ figures)
        surplus = (self.wins + self.losses) * chance - self.wins
        return (self.design.T @ surplus + self.precise * figures) / self.scale

    def curvature(self, figures: Floats) -> Floats:
        odds = self.design @ figures
        weight = (self.wins + self.losses) * expit(odds) * expit(-odds)
        found = (self.design.T * weight) @ self.design + self.precise * np.eye(len(figures))
        return found / self.scale


def _estimate(value: float, error: float) -> Estimate:
    reach = float(ndtri((1 + COVERED) / 2)) * error
    return Estimate(value, error, value - reach, value + reach)


def _check(comparisons: Sequence[Comparison], count: int) -> None:
    for first, second, score in comparisons:
        if first == second or not (0 <= first < count and 0 <= second < count):
            raise ValueError(
                f"a comparison must be of two of the {count} candidates, "
                f"got {first} and {second}; number them from 0"
            )
        if not 0 <= score <= 1:
            raise ValueError(f"a score must be in 0..1, got {score}; a tie is 0.5")
