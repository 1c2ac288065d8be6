"""Pairwise: many candidates judged two by two, and one strength for each."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from portia.consensus import SETTLED
from portia.pairs import Pair, decide_pairs
from portia.verdict import TIE, Verdict, Vote
from server.concurrency import together
from server.job import Job, Reply
from server.judge.ballot import Ballot
from server.judge.decision import verdict_of
from server.stages.base import Claim, Level, Need, Proceed, Stage, asking, ballot_of
from server.stages.swap import Swap

if TYPE_CHECKING:
    from portia.bradley_terry import Estimate


class Pairwise(Stage):
    """Judge all pairs, and fit a strength per candidate (Bradley-Terry) and an order bias.

    Stages inside are run on every pair; without one that says how, both orders are asked. The
    winner is the strongest, if it won all of its own pairs; else the status says why there is none.
    """

    level: ClassVar[Level] = Level.RANKING
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates"})
    claims: ClassVar[frozenset[Claim]] = frozenset()
    implies: ClassVar[tuple[Stage, ...]] = (Swap(),)

    stage: Literal["pairwise"] = "pairwise"

    def prepare(self, job: Job) -> Job:
        """Return the job of one pair."""
        if job.ballot is None:
            return job
        return asking(job, _of_pair(job.ballot, (0, 1)))

    def calls(self, job: Job) -> int:
        """Return the number of pairs."""
        return comb(len(ballot_of(job).candidates), 2)

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed once per pair, at the same time, in canonical order."""
        ballot = ballot_of(job)
        pairs = list(combinations(ballot.canonical(), 2))
        jobs = [asking(job, _of_pair(ballot, pair)) for pair in pairs]
        replies = await together([proceed(each) for each in jobs])
        verdicts = [_verdict(*each) for each in zip(replies, jobs, strict=True)]
        votes = tuple(
            _in_callers_indices(vote, pair)
            for reply, pair in zip(replies, pairs, strict=True)
            for vote in reply.votes
        )
        by_pair = dict(zip(pairs, verdicts, strict=True))
        verdict, order = decide_pairs(votes, by_pair, ballot.texts)
        told = [_told(ballot, *each) for each in zip(pairs, verdicts, replies, strict=True)]
        return Reply(
            calls=tuple(call for reply in replies for call in reply.calls),
            probes=tuple(call for reply in replies for call in reply.probes),
            notes={self.stage: {"order": _figures(order), "pairs": told}},
            votes=votes,
            order_free=all(reply.order_free for reply in replies),
            rung=self.stage,
            verdict=verdict,
        )


def _of_pair(ballot: Ballot, pair: Pair) -> Ballot:
    return replace(ballot, candidates=tuple(ballot.candidates[index] for index in pair))


def _verdict(reply: Reply, job: Job) -> Verdict:
    return verdict_of(reply, ballot_of(job))


def _in_callers_indices(vote: Vote, pair: Pair) -> Vote:
    choice = vote.choice if vote.choice in (None, TIE) else pair[vote.choice]
    return Vote(tuple(pair[index] for index in vote.by_slot), choice, vote.values)


def _told(ballot: Ballot, pair: Pair, verdict: Verdict, reply: Reply) -> dict[str, Any]:
    """Return what the note says of one pair."""
    ids = [ballot.candidates[index].id for index in pair]
    return {
        "pair": ids,
        "winner": None if verdict.winner is None else ids[verdict.winner],
        "preferred": None if verdict.preferred is None else ids[verdict.preferred],
        "status": verdict.status,
        "rung": reply.rung if verdict.status in SETTLED else None,
        "notes": dict(reply.notes),
    }


def _figures(estimate: Estimate) -> dict[str, float]:
    return {
        "value": estimate.value,
        "standard_error": estimate.error,
        "low": estimate.low,
        "high": estimate.high,
    }
