"""`/v1/judge`: the judgement that comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portia.consensus import SETTLED
from portia.verdict import TIE, Verdict
from server.chunk import Usage
from server.job import Reply
from server.judge.ballot import Ballot, Call
from server.judge.decision import Decision
from server.judge.forms import FORMS
from server.judge.template import name_of
from server.pipeline import Plan
from server.protocol.replies import Head, evenhand, usage_wire


def judgement(
    head: Head,
    ballot: Ballot,
    plan: Plan,
    reply: Reply,
    decision: Decision,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the body of the answer: what is concluded, the calls, and the plan that ran."""
    verdict = decision.verdict
    spent = (call.usage for call in (*reply.calls, *reply.probes))
    return {
        **head.wire("judgement"),
        **decision.wire(ballot),
        "margin": verdict.margin,
        "slot_bias": verdict.slot_bias,
        "unit": None if verdict.margin is None else _unit(verdict, reply.calls[-1]),
        "ranking": _ranking(ballot, verdict),
        "ranked_by": verdict.method,
        "rung": reply.rung if verdict.status in SETTLED else None,
        "template": name_of(ballot),
        "calls": [_call(call) for call in reply.calls],
        "usage": usage_wire(sum(spent, Usage())),
        "evenhand": evenhand(plan.wire(), reply.notes, warnings),
    }


def _unit(verdict: Verdict, last: Call) -> str:
    """Return the unit of the margin, the bias and the scores: log-odds, or points of the form."""
    return "nats" if verdict.method == "bradley_terry" else FORMS[last.ballot.form].unit


def _ranking(ballot: Ballot, verdict: Verdict) -> list[dict[str, Any]]:
    """Return the candidates, best first, with their scores and what is known of their intervals."""
    entries: list[dict[str, Any]] = [
        {"id": ballot.candidates[index].id, "index": index, "score": score}
        for index, score in verdict.ranking
    ]
    for entry, (low, high) in zip(entries, verdict.intervals, strict=False):
        entry |= {"low": low, "high": high}
    return entries


def _call(call: Call) -> dict[str, Any]:
    """Return one call; `verdict` is a candidate's id, "tie" or null, `label` what was said."""
    shown = [call.ballot.candidates[index] for index in call.order]
    choice = call.choice
    said = "tie" if choice == TIE else None if choice is None else shown[choice].id
    wire: dict[str, Any] = {
        "order": [candidate.id for candidate in shown],
        "indices": [candidate.index for candidate in shown],
        "letters": list(call.labels[: len(shown)]),
        "label": call.verdict,
        "verdict": said,
        "text": call.text,
        "logprobs": None if call.logprobs is None else dict(call.logprobs),
        "values": None if call.values is None else list(call.values),
        "tokens": usage_wire(call.usage),
        "stages": list(call.stages),
    }
    if call.samples:
        wire["samples"] = [{"label": each.verdict, "text": each.text} for each in call.samples]
    if call.repeated:
        wire["repeated"] = True
    return wire
