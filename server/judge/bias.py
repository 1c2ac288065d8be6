"""The slot bias: what a judge gives the first slot, whoever stands there.

Two calls in both orders show it; a call alone is corrected by the mean of what others showed
(spec portia-and-judge 2). Under a reading that knows no slots it is the bias of the labels.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from portia.verdict import TIE
from server.errors import EngineError
from server.judge.ballot import Ballot, Call, Case
from server.judge.calibration import BiasKey
from server.judge.forms import FORMS
from server.judge.letters import TIE as TIE_LABEL
from server.judge.template import built_in

HALF_POINT = 0.5  # scores are whole: a lead below this is nearer to none than to one
log = logging.getLogger("evenhand")


def key(case: Case, ballot: Ballot) -> BiasKey:
    """Return what a habit is a property of.

    A prompt that names no tie is another prompt, and so is one that shows more than two.
    """
    template = ballot.template
    if template not in built_in():
        template = hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    reading = "set" if ballot.as_documents else "plain"
    forced = FORMS[ballot.form].forced and not ballot.names_ties
    form = f"{ballot.form} without ties" if forced else ballot.form
    if len(ballot.candidates) > 2:
        form = f"{form}, {len(ballot.candidates)} candidates"
    return BiasKey(case.fingerprint, template, form, ballot.lettering, reading)


def lead(call: Call) -> float:
    """Return by how much the first slot leads the second, in the form's unit."""
    assert call.values is not None, "only a call with values has a lead"
    first, second = call.values
    return first - second


async def learn(case: Case, calls: Sequence[Call]) -> None:
    """Take what two calls in both orders show of the slot bias into the store.

    Only of plain calls that could be read; and no fault of the store spoils their verdict.
    """
    if case.calibration is None or len(calls) != 2 or not all(map(plain, calls)):
        return
    found = math.fsum(map(lead, calls)) / 2
    try:
        await asyncio.to_thread(case.calibration.observe, key(case, calls[0].ballot), found)
    except EngineError as error:
        log.warning("%s", error.message)


def plain(call: Call) -> bool:
    """Say whether a call could be read, and nothing but its key changed what was asked."""
    ballot = call.ballot
    changed = ballot.evidence or ballot.parts or ballot.debate or call.repeated
    return not changed and call.choice is not None and call.values is not None


def corrected(call: Call, bias: float) -> Call:
    """Return a call as a judge without this slot bias would have made it.

    Its lead is less by the bias; the middle of the two values stays, and so does a tie's label.
    """
    if call.values is None:
        return call
    rest, middle = lead(call) - bias, math.fsum(call.values) / 2
    values = (middle + rest / 2, middle - rest / 2)
    if call.choice is None:
        return replace(call, values=values)
    if call.ballot.form == "relation":
        likeliest = (call.logprobs or {}).get(TIE_LABEL, -math.inf) >= max(values)
        tied = rest == 0 or (likeliest if call.tied is None else call.tied)
    else:
        tied = abs(rest) < HALF_POINT
    return replace(call, values=values, choice=TIE if tied else 0 if rest > 0 else 1)
