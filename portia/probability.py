"""How probably the preferred candidate is the right one, given by how much it leads.

Before anything is known of a judge, its margin is taken for log-odds: models are then far too sure.
On labelled items it is fitted whether they were right, by one number (Guo et al. 2017, arXiv
1706.04599, section 4.2) or by any curve that does not fall (Zadrozny and Elkan 2002). Margins are
those of the preferred candidate, >= 0: a verdict and its mirror have the same, and the same
probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, fsum, log
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np

FitMethod = Literal["temperature", "isotonic"]
FOLDS = 5
TEMPERATURES = (1e-3, 1e3)


def sigmoid(margin: float) -> float:
    """Return the probability that has these log-odds, which are not negative."""
    return 1 / (1 + exp(-margin))


def softmax(scores: Sequence[float], place: int) -> float:
    """Return the share of one of several scores, which are log-odds but for a constant."""
    most = max(scores)
    return exp(scores[place] - most) / fsum(exp(score - most) for score in scores)


@dataclass(frozen=True, slots=True)
class Temperature:
    """`P(right) = sigmoid(margin / temperature)`.

    count   items that it was fitted to
    before  log loss of the margin taken for log-odds: mean of minus the log of the probability that
            was given to what came true, nats per item
    after   log loss of fits to four fifths of the items each, on the fifth that they had not seen
    """

    temperature: float
    count: int
    before: float = 0.0
    after: float = 0.0

    def __call__(self, margin: float) -> float:
        """Return how probably the preferred is right."""
        return _within(sigmoid(margin / self.temperature), self.count)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A curve that does not fall: straight between its knots, level beyond them.

    margins, shares       of the knots: the two ends of each run of items that got one share
    count, before, after  as of `Temperature`
    """

    margins: tuple[float, ...]
    shares: tuple[float, ...]
    count: int
    before: float = 0.0
    after: float = 0.0

    def __call__(self, margin: float) -> float:
        """Return how probably the preferred is right."""
        return _within(float(np.interp(margin, self.margins, self.shares)), self.count)


Fit = Temperature | Isotonic
F = TypeVar("F", Temperature, Isotonic)
Item = tuple[float, bool]  # a margin, and whether the preferred was right


def fit_temperature(margins: Sequence[float], right: Sequence[bool]) -> Temperature:
    """Return the temperature under which what came true is most probable.

    margins  of the preferred candidate over the other, >= 0
    right    per margin, whether the preferred was right
    raises   ValueError  below FOLDS items, or if a margin is negative
    """
    return _fitted(_temperature, margins, right)


def fit_isotonic(margins: Sequence[float], right: Sequence[bool]) -> Isotonic:
    """Return the curve that does not fall and is nearest to what came true.

    margins, right, raises  as of `fit_temperature`
    """
    return _fitted(_isotonic, margins, right)


FITS: Mapping[FitMethod, Callable[[Sequence[float], Sequence[bool]], Fit]] = MappingProxyType(
    {"temperature": fit_temperature, "isotonic": fit_isotonic}
)


def told(fit: Fit) -> dict[str, Any]:
    """Return what a reader should know of a fit."""
    loss = {"before": fit.before, "after": fit.after}
    method: FitMethod = "temperature" if isinstance(fit, Temperature) else "isotonic"
    about = {"method": method, "count": fit.count, "log_loss": loss}
    return about if isinstance(fit, Isotonic) else {**about, "temperature": fit.temperature}


def kept(fit: Fit) -> dict[str, Any]:
    """Return a fit as JSON has it, from which `restored` makes it again."""
    if isinstance(fit, Temperature):
        return told(fit)
    return {**told(fit), "margins": list(fit.margins), "shares": list(fit.shares)}


def restored(wire: Mapping[str, Any]) -> Fit:
    """Return the fit that `kept` was made of."""
    count, loss = int(wire["count"]), wire["log_loss"]
    about = (count, float(loss["before"]), float(loss["after"]))
    if wire["method"] == "temperature":
        return Temperature(float(wire["temperature"]), *about)
    margins, shares = (tuple(map(float, wire[name])) for name in ("margins", "shares"))
    return Isotonic(margins, shares, *about)


def _fitted(
    fit: Callable[[Sequence[Item]], F], margins: Sequence[float], right: Sequence[bool]
) -> F:
    """Fit all items, and measure on those that were left out; their order does not matter."""
    items = sorted(zip(margins, right, strict=True))
    if len(items) < FOLDS or items[0][0] < 0:
        least = items[0][0] if items else None
        raise ValueError(
            f"items must be at least {FOLDS} with margins of the preferred, got {len(items)} and "
            f"the least margin {least}; label more"
        )
    unseen = [
        _surprise(part(margin), true)
        for fold in range(FOLDS)
        for part in [fit([item for place, item in enumerate(items) if place % FOLDS != fold])]
        for margin, true in items[fold::FOLDS]
    ]
    before = [_surprise(sigmoid(margin), true) for margin, true in items]
    return replace(fit(items), before=_mean(before), after=_mean(unseen))


def _temperature(items: Sequence[Item]) -> Temperature:
    from scipy.optimize import minimize_scalar  # which a server starts without

    def loss(log_temperature: float) -> float:
        slope = exp(-log_temperature)
        return fsum(np.logaddexp(0, -slope * (m if true else -m)) for m, true in items)

    low, high = map(log, TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return Temperature(exp(float(found.x)), len(items))


def _isotonic(items: Sequence[Item]) -> Isotonic:
    from scipy.optimize import isotonic_regression

    by_margin: dict[float, list[float]] = {}
    for margin, true in items:
        by_margin.setdefault(margin, []).append(float(true))
    shares, weights = map(_mean, by_margin.values()), map(len, by_margin.values())
    curve = isotonic_regression(list(shares), weights=list(weights)).x.tolist()
    inner = zip(curve, [None, *curve], [*curve[1:], None], strict=False)
    ends = [place for place, (this, last, next_) in enumerate(inner) if {last, next_} != {this}]
    margins = list(by_margin)
    return Isotonic(tuple(margins[e] for e in ends), tuple(curve[e] for e in ends), len(items))


def _within(probability: float, count: int) -> float:
    """Return a probability no surer than `count` items make anybody (Laplace's rule)."""
    return min(max(probability, 1 / (count + 2)), (count + 1) / (count + 2))


def _surprise(probability: float, true: bool) -> float:
    """Return minus the log of the probability of what came true, capped where it is 0."""
    return -log(max(probability if true else 1 - probability, 5e-324))


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)
