"""What a judge's calls say together (spec portia-and-judge 2 and 3).

All sums are `math.fsum`, which rounds once: the order of the terms cannot change a bit. Candidates
are known here by their index; `by_slot` of a vote lists the indices as they were shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

Status = Literal["consistent", "tie", "order_conflict", "unparsed", "single"]
TIE = -1  # a vote for none of the candidates


@dataclass(frozen=True, slots=True)
class Vote:
    """One call, its labels already turned back into candidates.

    by_slot   candidate indices as they were shown
    choice    the candidate chosen, TIE, or None if the answer could not be read
    logprobs  natural-log probability per slot, or None
    """

    by_slot: tuple[int, ...]
    choice: int | None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the calls agree on, and by how much.

    winner     candidate index, or None
    status     consistent      all calls, or one that no order can change, chose the same
               tie             all calls say so, or chose among candidates of equal text
               order_conflict  the calls differ; never folded into a tie
               unparsed        a call could not be read
               single          one call was made, in one of several possible orders
    margin     log-odds by which the best candidate leads the second best, mean over the calls, >= 0
    slot_bias  two candidates: log-odds of the first slot over the second, mean over the calls;
               more: mean log-probability of each slot above the mean of its call
    ranking    (candidate index, score), best first; the score is the mean over the calls of the
               candidate's log-probability above the mean of its call, in nats
    """

    winner: int | None
    status: Status
    margin: float | None
    slot_bias: float | tuple[float, ...] | None
    ranking: tuple[tuple[int, float], ...]


def decide(votes: Sequence[Vote], texts: Sequence[str], *, order_free: bool = False) -> Verdict:
    """Return the verdict of all calls of one item.

    texts       the candidates' texts; equal ones cannot be told apart, so they share their mean
                log-probability, and a choice among them is a tie
    order_free  True = one call is the same in every order (PINE), so it counts as agreement

    Neither the order of the votes nor the numbering of the candidates changes a bit: votes are
    taken in the order of the texts they showed.
    """
    votes = sorted(votes, key=lambda vote: [texts[index] for index in vote.by_slot])
    status, winner = _agreement(votes, texts, order_free or len(votes) > 1)
    if any(vote.logprobs is None for vote in votes):
        return Verdict(winner, status, None, None, ())
    shared = [_by_candidate(vote, texts) for vote in votes]
    ranking = _rank(shared, winner)
    first, second = ranking[0][0], ranking[1][0]
    margin = max(0.0, _mean([call[first] - call[second] for call in shared]))
    return Verdict(winner, status, margin, _slot_bias(votes), ranking)


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
    """Return the log-probability per candidate; candidates of equal text share their mean."""
    assert vote.logprobs is not None
    by_text: dict[str, list[float]] = {}
    for index, logprob in zip(vote.by_slot, vote.logprobs, strict=True):
        by_text.setdefault(texts[index], []).append(logprob)
    return {index: _mean(by_text[texts[index]]) for index in vote.by_slot}


def _rank(
    calls: Sequence[Mapping[int, float]], winner: int | None
) -> tuple[tuple[int, float], ...]:
    """Return (candidate, score), best first; equal scores in the order of the first call."""
    middles = [_mean(list(call.values())) for call in calls]
    scores = {
        index: _mean([call[index] - middle for call, middle in zip(calls, middles, strict=True)])
        for index in calls[0]
    }
    best_first = sorted(scores, key=lambda index: (index != winner, -scores[index]))
    return tuple((index, scores[index]) for index in best_first)


def _slot_bias(votes: Sequence[Vote]) -> float | tuple[float, ...] | None:
    """Return what the slots get by themselves, where every candidate stood in every slot.

    Two candidates: (l1 + l2) / 2, with l1 and l2 the log-odds of the first slot in either order.
    """
    slots = len(votes[0].by_slot)
    if len({vote.by_slot for vote in votes}) < slots:
        return None
    seen = [vote.logprobs for vote in votes if vote.logprobs is not None]
    if slots == 2:
        return _mean([logprobs[0] - logprobs[1] for logprobs in seen])
    above = [[logprob - _mean(logprobs) for logprob in logprobs] for logprobs in seen]
    return tuple(_mean(list(slot)) for slot in zip(*above, strict=True))


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)
