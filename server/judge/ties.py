"""Ties by measurement: how readily a judge says T is a habit of its, not a verdict on the answers.

What T gets is compared with what the same judge, asked in the same way, gave it where the two
answers were identical: there nothing but the habit speaks.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from portia.verdict import TIE
from server.errors import EngineError
from server.judge.ballot import Call, Case
from server.judge.bias import key, plain
from server.judge.calibration import ENOUGH, Bias, BiasKey
from server.judge.letters import TIE as TIE_LABEL

log = logging.getLogger("evenhand")


def tie_odds(call: Call) -> float | None:
    """Return `log P(T) - log(sum of P(letter))`, or None where T had no part or none was read."""
    said = call.logprobs or {}
    if call.choice is None or call.ballot.form != "relation" or TIE_LABEL not in said:
        return None
    letters = [logprob for label, logprob in said.items() if label != TIE_LABEL]
    most = max(letters)
    return said[TIE_LABEL] - most - math.log(math.fsum(math.exp(each - most) for each in letters))


class TieHabits:
    """What is known of the judge's ties, read once a request: all of its calls are read alike."""

    def __init__(self) -> None:
        self._known: dict[BiasKey, Bias | None] = {}
        self._lock = asyncio.Lock()

    async def read(self, case: Case, call: Call) -> Call:
        """Return a call that is a tie if T is at least as likely as the judge's mean, else not.

        The mean is that of T's log-odds on identical answers. It is the one threshold that needs no
        number from anybody: from there on a pair looks to the judge as much like a tie as two
        answers do that are one. A lower one would find more of the true ties, and call others so
        that are none; whoever knows what either costs sends `tie_margin`. With less than ENOUGH
        observations, the likeliest label is left to say; so it is where the model was trained on
        the template, since it learnt there when to say T.
        """
        odds = None if call.ballot.taught else tie_odds(call)
        known = None if odds is None else await self._of(case, call)
        if odds is None or known is None or known.count < ENOUGH:
            return call
        tied = odds >= known.mean
        return replace(call, tied=tied, choice=TIE if tied else _likeliest(call))

    def notes(self) -> dict[str, Any]:
        """Return the note on what ties were decided by, if anything was known."""
        known = [each for each in self._known.values() if each and each.count >= ENOUGH]
        told = [
            {"mean": each.mean, "count": each.count, "standard_error": each.standard_error}
            for each in known
        ]
        return {"ties": told} if told else {}

    async def _of(self, case: Case, call: Call) -> Bias | None:
        store = case.calibration
        if store is None:
            return None
        about = key(case, call.ballot)
        async with self._lock:
            if about not in self._known:
                self._known[about] = await asyncio.to_thread(store.of, about, "tie_odds")
            return self._known[about]


def _likeliest(call: Call) -> int:
    """Return the slot of the likeliest letter, TIE if there are several."""
    assert call.values is not None, "labels that were read have values"
    best = [slot for slot, value in enumerate(call.values) if value == max(call.values)]
    return best[0] if len(best) == 1 else TIE


async def learn_ties(case: Case, calls: Sequence[Call]) -> None:
    """Take T's log-odds on identical answers into the store; its faults spoil no verdict.

    Only answers of the request itself count, since texts that say nothing are no answers; and a
    text counts once, however many calls show it.
    """
    if case.calibration is None:
        return
    found: dict[tuple[BiasKey, str], list[float]] = {}
    for call in calls:
        odds, texts = tie_odds(call), {*call.ballot.texts}
        if odds is not None and plain(call) and len(texts) == 1 and texts <= {*case.ballot.texts}:
            found.setdefault((key(case, call.ballot), texts.pop()), []).append(odds)
    try:
        for (about, _), odds_of in found.items():
            mean = math.fsum(odds_of) / len(odds_of)
            await asyncio.to_thread(case.calibration.observe, about, mean, "tie_odds")
    except EngineError as error:
        log.warning("%s", error.message)
