"""Swap: show the candidates in several orders and compare the verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from kvedit.orders import orders
from server.concurrency import together
from server.job import Job, Reply
from server.judge.ballot import Call
from server.judge.bias import learn
from server.stages.base import (
    Claim,
    Level,
    Need,
    Proceed,
    RungStages,
    Stage,
    asking,
    ballot_of,
    case_of,
)


class Swap(Stage):
    """Judge once in each order of a cyclic Latin square (spec portia-and-judge 3).

    Every candidate stands in every slot exactly once; two candidates give both orders. The square
    is built on the canonical order, so the calls are the same whatever order the caller sent. With
    `pine` inside there are no slots, and it is the labels that change.
    """

    level: ClassVar[Level] = Level.TEXT
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"order"})

    stage: Literal["swap"] = "swap"

    def calls(self, job: Job) -> int:
        """Return the number of orders: one per candidate."""
        return len(job.ballot.candidates) if job.ballot else 1

    def rungs(self) -> tuple[RungStages, ...]:
        """Return the plain prompt in every order: `swap` is part of every rung anyway."""
        return (RungStages(self.stage, ()),)

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed once per order, at the same time, and join the calls in canonical order.

        Two calls show a slot bias, which is kept for those who make one.
        """
        count = len(ballot_of(job).candidates)
        calls, inner = await in_orders(job, count, proceed)
        return Reply(calls=calls, notes={self.stage: {"orders": count}, **inner})


async def in_orders(
    job: Job, wanted: int, proceed: Proceed
) -> tuple[tuple[Call, ...], dict[str, Any]]:
    """Judge in so many orders of the canonical one, at the same time.

    returns  the calls in canonical order, and the notes of each, by stage
    """
    ballot = ballot_of(job)
    canonical = ballot.canonical()
    shown = [tuple(canonical[place] for place in each) for each in orders(len(canonical), wanted)]
    jobs = [asking(job, replace(ballot, order=order)) for order in shown]
    replies = await together([proceed(each) for each in jobs])
    calls = tuple(call for reply in replies for call in reply.calls)
    await learn(case_of(job), calls)
    return calls, {name: [reply.notes[name] for reply in replies] for name in replies[0].notes}
