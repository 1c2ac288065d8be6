"""One vote of several calls: the mean of what each candidate, and a tie, was worth in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import fsum

from portia.verdict import TIE, Vote
from server.judge.ballot import Call
from server.judge.bias import HALF_POINT
from server.judge.letters import TIE as TIE_LABEL


def averaged(calls: Sequence[Call], canonical: tuple[int, ...]) -> Vote:
    """Return the vote of the mean.

    calls      of the same candidates in several orders
    canonical  the candidates' indices in an order that depends on their content alone

    If one call could not be read, nor can their mean. A tie is what most calls were by measurement,
    or else where T's mean log-probability is as great as the best candidate's (points: where the
    best leads by less than half a point).
    """
    if any(call.values is None for call in calls):
        return Vote(canonical, None)
    by_candidate = {
        index: [value for call in calls for value in _of(call, index)] for index in canonical
    }
    values = tuple(fsum(by_candidate[index]) / len(calls) for index in canonical)
    if any(call.choice is None for call in calls):
        return Vote(canonical, None, values)
    best, second = sorted(values, reverse=True)[:2]
    tied = best == second or _tied(calls, best, best - second)
    return Vote(canonical, TIE if tied else canonical[values.index(best)], values)


def _of(call: Call, index: int) -> list[float]:
    assert call.values is not None
    return [value for shown, value in zip(call.order, call.values, strict=True) if shown == index]


def _tied(calls: Sequence[Call], best: float, lead: float) -> bool:
    """Say whether the calls are a tie together."""
    if not calls[0].ballot.ties:
        return False
    if all(call.tied is not None for call in calls):
        return 2 * sum(call.tied is True for call in calls) > len(calls)
    if calls[0].ballot.form != "relation":
        return lead < HALF_POINT
    said = [(call.logprobs or {}).get(TIE_LABEL, -math.inf) for call in calls]
    return fsum(said) / len(said) >= best
