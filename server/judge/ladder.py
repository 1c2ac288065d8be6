"""The ladder: the rungs of a plan, each an onion around the judge, tried until orders agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from portia import consensus
from portia.consensus import Outcome, Rung
from server.chunk import Usage
from server.engines.base import Engine
from server.job import Job, Reply
from server.judge.ballot import Ballot, Call
from server.judge.call import judge, vote
from server.judge.decision import verdict_of
from server.judge.ties import TieHabits
from server.pipeline.compose import fold
from server.pipeline.plan import Plan, calls
from server.stages.base import Proceed, RungStages, ballot_of, case_of


def climb(plan: Plan, engine: Engine, most_calls: int | None = None) -> Proceed:
    """Fold the plan around a judge, for one request.

    most_calls  a ladder stops before the rung that would need more; None = no bound
    """
    asked: dict[Ballot, Call] = {}
    habits = TieHabits()

    async def once(job: Job) -> Reply:
        """Ask a judge; a ballot of this request that was asked before gives the same answer."""
        case = case_of(job)
        ballot = case.ballot
        if ballot in asked:
            call = replace(asked[ballot], stages=case.stages, usage=Usage(), repeated=True)
            return Reply(calls=(call,))
        reply = await judge(job, ballot, engine, case.stages)
        asked[ballot] = await habits.read(case, reply.calls[0])
        return replace(reply, calls=(asked[ballot],))

    async def answer(job: Job) -> Reply:
        most = (most_calls or sys.maxsize) // calls(plan.outer, job)
        reply = await fold(plan.outer, _ladder(plan, once, most))(job)
        return replace(reply, notes={**reply.notes, **habits.notes()})

    return answer


def _ladder(plan: Plan, once: Proceed, most_calls: int) -> Proceed:
    """Return what tries the plan's rungs in turn until the orders agree."""
    outer = tuple(stage.stage for stage in plan.outer)

    async def answer(job: Job) -> Reply:
        stages_of = {_rung(each, job): each.stages for each in plan.rungs}
        ballot = ballot_of(job)
        how = (ballot.ranking, ballot.tie_margin)
        climbing = consensus.climb(list(stages_of), ballot.texts, most_calls, *how)
        replies: list[Reply] = []
        rung = next(climbing)
        while True:
            stages = stages_of[rung]
            names = (*outer, *(stage.stage for stage in stages))
            before = replies[-1].calls if replies else ()
            case = replace(case_of(job), stages=names, history=before)
            reply = await fold(stages, once)(job.but(case=case))
            votes = tuple(map(vote, reply.calls))
            replies.append(replace(reply, votes=votes, order_free=rung.order_free))
            try:
                rung = climbing.send(votes)
            except StopIteration as end:
                return _outcome(end.value, replies, ballot)

    return answer


def _rung(rung: RungStages, job: Job) -> Rung:
    free = any(stage.order_free for stage in rung.stages)
    return Rung(rung.name, calls(rung.stages, job), free)


def _outcome(outcome: Outcome, replies: Sequence[Reply], ballot: Ballot) -> Reply:
    """Return all calls, with the votes of the last rung."""
    last = replies[-1]
    notes = dict(last.notes)
    if len(replies) > 1 or outcome.stopped:
        tried = [_note(*each, ballot) for each in zip(outcome.tried, replies, strict=True)]
        notes = {"ladder": {"tried": tried, "stopped": outcome.stopped}}
    return replace(
        last,
        calls=tuple(call for reply in replies for call in reply.calls),
        notes=notes,
        rung=outcome.rung.name or None if outcome.rung else None,
    )


def _note(rung: Rung, reply: Reply, ballot: Ballot) -> dict[str, Any]:
    verdict = verdict_of(reply, ballot)
    return {
        "rung": rung.name,
        "status": verdict.status,
        "calls": len(reply.calls),
        "notes": dict(reply.notes),
    }
