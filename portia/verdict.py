"""What a judge's calls say together (spec portia-and-judge 2 and 3).

All sums are `math.fsum`, which rounds once: the order of the terms cannot change a bit. Candidates
are known here by their index; `by_slot` of a vote lists the indices as they were shown. Values have
the unit of the form: natural-log probabilities (relation), or points (score, likert).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

from portia.rank import MOST_EXACT, Preferences, borda, kemeny

Status = Literal["consistent", "tie", "order_conflict", "unparsed", "single"]
Method = Literal["mean", "kemeny", "borda"]
TIE = -1  # a vote for none of the candidates


@dataclass(frozen=True, slots=True)
class Vote:
    """One call, its labels already turned back into candidates.

    by_slot  candidate indices as they were shown
    choice   the candidate chosen, TIE, or None if the answer could not be read
    values   what each slot was worth to the judge, or None
    """

    by_slot: tuple[int, ...]
    choice: int | None
    values: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the calls agree on, and by how much.

    winner     candidate index, or None
    preferred  candidate index: whom all calls together speak for, whatever the orders said; the
               winner where there is one; None only where nothing tells
    status     consistent      all calls, or one that no order can change, chose the same
               tie             all calls say so, or chose among candidates of equal text; or the
                               margin is not above the caller's `tie_margin`
               order_conflict  the calls differ; never folded into a tie
               unparsed        a call could not be read
               single          one call was made, in one of several possible orders
    margin     by how much the first of the ranking leads the second, mean over the calls, >= 0; 0
               where the calls' consensus puts first who has not the greatest mean
    slot_bias  two candidates: lead of the first slot over the second, mean over the calls;
               more: mean value of each slot above the mean of its call
    ranking    (candidate index, score), best first; the score is the mean over the calls of the
               candidate's value above the mean of its call, or None without values
    method     what ordered the ranking, which is empty if it is None
    intervals  (low, high) of each score, in the ranking's order, where they are known
    """

    winner: int | None
    status: Status
    margin: float | None
    slot_bias: float | tuple[float, ...] | None
    ranking: tuple[tuple[int, float | None], ...]
    method: Method | Literal["bradley_terry"] | None = None
    intervals: tuple[tuple[float, float], ...] = ()
    preferred: int | None = None


def decide(
    votes: Sequence[Vote],
    texts: Sequence[str],
    *,
    order_free: bool = False,
    method: Method | None = None,
    tie_margin: float | None = None,
) -> Verdict:
    """Return the verdict of all calls of one item.

    texts       the candidates' texts; equal ones cannot be told apart, so they share their mean
                value, and a choice among them is a tie
    order_free  True = one call is the same in every order (PINE), so it counts as agreement
    method      what makes one ranking of the calls': the mean of the values; or Kemeny or Borda,
                which also take calls that only chose. None = Kemeny, Borda where that is too long;
                the mean for two candidates, where they do not differ
    tie_margin  a margin up to this is a tie, whatever the calls chose; in the unit of the values,
                None = their choices tell. It asks nothing of calls without values, nor of what
                could not be read
    raises      ValueError  Kemeny of more than MOST_EXACT candidates

    `preferred` is the first of the ranking, so it and `margin` speak of the same candidate; None if
    its lead over the second is exactly 0 or both have one text. Of calls that only chose, whom most
    of them chose. Neither the order of the votes nor the numbering of the candidates changes a bit:
    votes are taken in the order of the texts they showed.
    """
    votes = sorted(votes, key=lambda vote: [texts[index] for index in vote.by_slot])
    status, winner = _agreement(votes, texts, order_free or len(votes) > 1)
    shared = [_by_candidate(vote, texts) for vote in votes if vote.values is not None]
    by = method or (
        "mean" if len(texts) == 2 else "kemeny" if len(texts) <= MOST_EXACT else "borda"
    )
    if len(shared) < len(votes):
        ranked, used = _rank_choices(votes, texts, by)
        return Verdict(winner, status, None, None, ranked, used, preferred=_most(votes, texts))
    scores = _scores(shared)
    ranking = _rank_values(shared, scores, by, winner)
    lead = _lead(shared, ranking)
    if len(ranking) == 2 and winner is None and lead < 0:  # their scores differ by rounding alone
        ranking, lead = ranking[::-1], -lead
    margin = max(0.0, lead)
    preferred = winner
    if winner is None and lead != 0 and texts[ranking[0]] != texts[ranking[1]]:
        preferred = ranking[0]
    if tie_margin is not None and status != "unparsed" and margin <= tie_margin:
        status, winner = "tie", None
    scored = tuple((index, scores[index]) for index in ranking)
    return Verdict(winner, status, margin, _slot_bias(votes), scored, by, preferred=preferred)


def _agreement(
    votes: Sequence[Vote], texts: Sequence[str], settled: bool
) -> tuple[Status, int | None]:
    """Return the status, and the winner where there is one."""
    chosen = {vote.choice for vote in votes}
    readable = chosen - {None}
    if readable < chosen:
        return "unparsed", None
    said = {None if choice == TIE else texts[choice] for choice in readable if choice is not None}
    if len(said) > 1:
        return "order_conflict", None
    [text] = said
    if text is None or list(texts).count(text) > 1:
        return "tie", None
    return "consistent" if settled else "single", list(texts).index(text)


def _by_candidate(vote: Vote, texts: Sequence[str]) -> Mapping[int, float]:
    """Return the value per candidate; candidates of equal text share their mean."""
    assert vote.values is not None
    by_text: dict[str, list[float]] = {}
    for index, value in zip(vote.by_slot, vote.values, strict=True):
        by_text.setdefault(texts[index], []).append(value)
    return {index: _mean(by_text[texts[index]]) for index in vote.by_slot}


def _scores(calls: Sequence[Mapping[int, float]]) -> Mapping[int, float]:
    """Return each candidate's mean over the calls of its value above the mean of its call."""
    middles = [_mean(list(call.values())) for call in calls]
    return {
        index: _mean([call[index] - middle for call, middle in zip(calls, middles, strict=True)])
        for index in calls[0]
    }


def _rank_values(
    calls: Sequence[Mapping[int, float]],
    scores: Mapping[int, float],
    method: Method,
    winner: int | None,
) -> list[int]:
    """Return the candidates, the winner first; equal means in the order of the first call."""
    ranking = sorted(scores, key=lambda index: -scores[index])
    if method != "mean":
        wins = [[float(sum(call[a] > call[b] for call in calls)) for b in ranking] for a in ranking]
        ranking = _consensus(ranking, wins, method)
    return sorted(ranking, key=lambda index: index != winner)


def _lead(calls: Sequence[Mapping[int, float]], ranking: Sequence[int]) -> float:
    """Return by how much the first of a ranking leads the second, mean over the calls."""
    first, second = ranking[0], ranking[1]
    return _mean([call[first] - call[second] for call in calls])


def _most(votes: Sequence[Vote], texts: Sequence[str]) -> int | None:
    """Return whom more calls chose than any other, or None; equal texts cannot be told apart."""
    chosen = [texts[vote.choice] for vote in votes if vote.choice not in (None, TIE)]
    counts = {text: chosen.count(text) for text in chosen}
    best = [text for text, count in counts.items() if count == max(counts.values())]
    if len(best) != 1 or list(texts).count(best[0]) > 1:
        return None
    return list(texts).index(best[0])


def _rank_choices(
    votes: Sequence[Vote], texts: Sequence[str], method: Method
) -> tuple[tuple[tuple[int, None], ...], Method | None]:
    """Return the ranking of calls that only chose: whom they chose stands before all others."""
    if method == "mean":
        return (), None
    chosen = [None if vote.choice in (None, TIE) else texts[vote.choice] for vote in votes]
    indices = sorted(range(len(texts)), key=texts.__getitem__)
    wins = [
        [0.0 if texts[a] == texts[b] else float(chosen.count(texts[a])) for b in indices]
        for a in indices
    ]
    return tuple((index, None) for index in _consensus(indices, wins, method)), method


def _consensus(indices: Sequence[int], wins: Preferences, method: Method) -> list[int]:
    """Return the indices best first; of equally good rankings, what stands first stays first."""
    rank = kemeny if method == "kemeny" else borda
    return [indices[place] for place in rank(wins).order]


def _slot_bias(votes: Sequence[Vote]) -> float | tuple[float, ...] | None:
    """Return what the slots get by themselves, where every candidate stood in every slot.

    Two candidates: (l1 + l2) / 2, with l1 and l2 the leads of the first slot in either order.
    """
    slots = len(votes[0].by_slot)
    if len({vote.by_slot for vote in votes}) < slots:
        return None
    seen = [vote.values for vote in votes if vote.values is not None]
    if slots == 2:
        return _mean([values[0] - values[1] for values in seen])
    above = [[value - _mean(values) for value in values] for values in seen]
    return tuple(_mean(list(slot)) for slot in zip(*above, strict=True))


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)
