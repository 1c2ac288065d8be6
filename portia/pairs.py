"""Many candidates judged two by two (spec portia-and-judge 3): one strength each, and a winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import TYPE_CHECKING

from portia.verdict import TIE, Status, Verdict, Vote

if TYPE_CHECKING:
    from portia.bradley_terry import Comparison, Estimate

Pair = tuple[int, int]
ROUNDING = 1e-9  # log-odds: strengths are fitted, and equal ones differ by so much


def decide_pairs(
    votes: Sequence[Vote], verdicts: Mapping[Pair, Verdict], texts: Sequence[str]
) -> tuple[Verdict, Estimate]:
    """Return the verdict on all candidates, and the order bias.

    votes     of all pairs, by the candidates' indices; those that could not be read say nothing
    verdicts  on each pair; a winner is 0 or 1, the place in the pair
    texts     the candidates' texts: between equal ones every vote is a tie

    The strongest is preferred. Strengths are made of choices, so of a judge that takes a slot all
    are equal: of several that are, it is who leads most in the values, mean over both orders, if
    there are any. It has won if it has won all of its own pairs; else the status says why nobody
    has: unparsed or order_conflict if one of its pairs is, tie if it only tied or lost one.
    """
    from portia.bradley_terry import fit  # scipy, which a server starts without

    found = fit(_comparisons(votes, texts), len(texts), texts)
    by_text = sorted(range(len(texts)), key=texts.__getitem__)
    ranking = sorted(by_text, key=lambda index: -found.candidates[index].value)
    top = ranking[0]
    least = found.candidates[top].value - ROUNDING
    best = [i for i in ranking if found.candidates[i].value >= least or texts[i] == texts[top]]
    preferred = top if len(best) == 1 else _leading(best, votes, texts)
    ranking.sort(key=lambda index: index != preferred)
    strengths = [found.candidates[index] for index in ranking]
    status, winner = _agreement(ranking[0], verdicts)
    margin = max(0.0, strengths[0].value - strengths[1].value)
    verdict = Verdict(
        winner,
        status,
        margin=margin,
        slot_bias=found.order.value,
        ranking=tuple((index, found.candidates[index].value) for index in ranking),
        method="bradley_terry",
        intervals=tuple((strength.low, strength.high) for strength in strengths),
        preferred=preferred,
    )
    return verdict, found.order


def _leading(best: Sequence[int], votes: Sequence[Vote], texts: Sequence[str]) -> int | None:
    """Return who of equally strong ones leads most in the values, or None where nothing tells."""
    leads: dict[int, list[float]] = {index: [] for index in best}
    for vote in votes:
        if vote.values is None:
            return None
        if texts[vote.by_slot[0]] == texts[vote.by_slot[1]]:
            continue
        for index, own, other in zip(vote.by_slot, vote.values, vote.values[::-1], strict=True):
            if index in leads:
                leads[index].append(own - other)
    sums = {index: fsum(each) for index, each in leads.items()}
    most = [index for index in best if sums[index] == max(sums.values())]
    return most[0] if len(most) == 1 else None


def _comparisons(votes: Sequence[Vote], texts: Sequence[str]) -> list[Comparison]:
    from portia.bradley_terry import Comparison

    found = []
    for vote in votes:
        first, second = vote.by_slot
        if vote.choice is not None:
            tied = vote.choice == TIE or texts[first] == texts[second]
            found.append(Comparison(first, second, 0.5 if tied else float(vote.choice == first)))
    return found


def _agreement(best: int, verdicts: Mapping[Pair, Verdict]) -> tuple[Status, int | None]:
    """Return the status, and the strongest where it has won all of its pairs."""
    own = [(pair, verdict) for pair, verdict in verdicts.items() if best in pair]
    statuses = {verdict.status for _, verdict in own}
    if "unparsed" in statuses:
        return "unparsed", None
    if "order_conflict" in statuses:
        return "order_conflict", None
    if any(verdict.winner is None or pair[verdict.winner] != best for pair, verdict in own):
        return "tie", None
    return "single" if "single" in statuses else "consistent", best
