"""`/v1/judge`: the judgement that comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portia.verdict import TIE, Verdict, Vote, decide
from server import ballot as ballots
from server.job import Ballot, Call, Candidate, Reply, Usage
from server.pipeline import Plan
from server.protocol.replies import Head, evenhand, usage_wire


def judgement(
    head: Head, ballot: Ballot, plan: Plan, reply: Reply, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the body of the answer: the verdict of all calls, the calls, and the plan that ran."""
    candidates = ballot.candidates
    texts = [candidate.text for candidate in candidates]
    votes = [_vote(call) for call in reply.calls]
    verdict = decide(votes, texts, order_free=plan.order_free)
    return {
        **head.wire("judgement"),
        "winner": None if verdict.winner is None else candidates[verdict.winner].id,
        "status": verdict.status,
        "margin": verdict.margin,
        "slot_bias": verdict.slot_bias,
        "ranking": [
            {"id": candidates[index].id, "index": index, "score": score}
            for index, score in verdict.ranking
        ],
        "rung": _rung(verdict, plan),
        "calls": [_call(call, candidates) for call in reply.calls],
        "usage": usage_wire(sum((call.usage for call in reply.calls), Usage())),
        "evenhand": evenhand(plan.wire(), reply.notes, warnings),
    }


def _vote(call: Call) -> Vote:
    """Return a call with its labels turned back into candidates."""
    slots = call.labels[: len(call.order)]
    logprobs = None if call.logprobs is None else tuple(call.logprobs[label] for label in slots)
    return Vote(call.order, _choice(call), logprobs)


def _choice(call: Call) -> int | None:
    """Return the candidate that a call chose, TIE, or None if it could not be read."""
    if call.verdict is None:
        return None
    slot = call.labels.index(call.verdict)
    return TIE if call.verdict == ballots.TIE else call.order[slot]


def _rung(verdict: Verdict, plan: Plan) -> str | None:
    """Return the outermost stage, under which the calls agreed, or None if they did not."""
    agreed = verdict.status in ("consistent", "tie")
    return plan.names[0] if agreed and plan.names else None


def _call(call: Call, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return one call; `verdict` is a candidate's id, "tie" or null, `label` what was said."""
    choice = _choice(call)
    said = "tie" if choice == TIE else None if choice is None else candidates[choice].id
    return {
        "order": [candidates[index].id for index in call.order],
        "indices": list(call.order),
        "label": call.verdict,
        "verdict": said,
        "text": call.text,
        "logprobs": None if call.logprobs is None else dict(call.logprobs),
        "tokens": usage_wire(call.usage),
        "stages": list(call.stages),
    }
