"""A trial: one way to judge, over a data set, with a record that a killed run is continued from."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from server.concurrency import completed, each
from server.engines.base import Engine
from server.errors import EngineError, PlanError
from server.judge.bias import key
from server.judge.calibration import ENOUGH, Calibration
from server.judge.judging import Judging
from server.judge.wire import JudgeBody
from server.protocol.common import parse
from server.stages.base import Level, ballot_of, case_of
from trials.datasets import TIE, Item
from trials.methods import METHODS
from trials.records import Records

TAUGHT = 100  # pairs that the slot bias is learned from
TAUGHT_TIES = 40  # calls that T's log-odds on identical answers are learned from
PATIENCE = 5  # failures of the engine one after the other that end a trial
BOTH = {(0, 1), (1, 0)}
CHANGING = ("id", "object", "created", "model", "system_fingerprint")  # said by `run`, or noise


@dataclass(frozen=True, slots=True)
class Judge:
    """One way to judge.

    name         served name of the model
    stages       None = what makes a verdict independent of the order at the least cost
    fields       of every request besides (form, template, criteria, seed, ...)
    calibration  the store of slot biases, which requests use and teach
    clock        tells the seconds that verdicts take
    data         how the data was chosen, for the record
    """

    engine: Engine
    name: str
    stages: list[dict[str, Any]] | None
    fields: Mapping[str, Any]
    calibration: Calibration | None = None
    clock: Callable[[], float] = time.monotonic
    data: Mapping[str, Any] = field(default_factory=dict)

    def judging(self, item: Item, order: tuple[int, ...] | None = None) -> Judging:
        """Return the request about an item, checked (PlanError, which names the item)."""
        body = json.dumps({**self.fields, **item.body(order)}).encode()
        try:
            asked = parse(body, JudgeBody, strict=True)
            return Judging.of(asked, self.engine, self.name, self.stages, self.calibration)
        except PlanError as error:
            message = f"item {item.id[:200]!r}: {error.message}"
            raise PlanError(
                message, param=error.param, code=error.code, status=error.status
            ) from None

    def run(self, item: Item) -> dict[str, Any]:
        """Return the settings that a record is made under: all but what the data says."""
        errand = self.judging(item).errand
        made_by = {"evenhand": version("evenhand"), "model": self.name}
        stages = {"stages": errand.plan.wire(), "fingerprint": errand.head.fingerprint}
        return {**made_by, **stages, **self.fields, **self.data}

    async def ask(self, item: Item, order: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Return the verdict on an item, with the seconds that it took."""
        judging = self.judging(item, order)
        begun = self.clock()
        reply = await judging.run(self.engine)
        kept = {name: value for name, value in reply.items() if name not in CHANGING}
        return {**kept, "seconds": round(self.clock() - begun, 6)}


def check(items: Sequence[Item], judge: Judge) -> None:
    """Refuse what cannot be judged before anything runs (PlanError)."""
    if not items:
        raise PlanError("data must have an item, got none; raise the limit")
    for item in items:
        judge.judging(item)


async def teach(items: Sequence[Item], judge: Judge) -> None:
    """Let a judge's store learn the slot bias of the first pairs, which are asked in both orders.

    raises  PlanError, EngineError  as the requests do
    """
    swapping = replace(judge, stages=METHODS["swap"])
    for item in items[:TAUGHT]:
        await swapping.ask(item)


async def teach_ties(items: Sequence[Item], judge: Judge) -> int:
    """Let a judge's store learn T's log-odds on identical answers, unless they are known.

    Each answer of the first items is asked against itself, up to TAUGHT_TIES calls, read as the
    judge reads: what asks for a verdict several times adds nothing here.
    A judge that may say T because it learnt when to (ties: auto) is left as it is.
    returns  calls that it took; 0 where the judge may not say T, too
    raises   PlanError, EngineError  as the requests do
    """
    errand = judge.judging(items[0]).errand
    ballot, plan = ballot_of(errand.job), errand.plan
    asked_for = judge.fields.get("ties") == "allow" and ballot.ties  # a tie_margin forbids them
    if not asked_for or ballot.form != "relation" or len(ballot.candidates) > 2:
        return 0
    reads = [stage.level >= Level.READING for stage in plan.stages]
    stages = [wire for wire, reading in zip(plan.wire(), reads, strict=True) if reading]
    alone = replace(judge, stages=stages)
    answers = [(item, text) for item in items for text in dict.fromkeys(item.candidates)]
    asked = 0
    for item, text in answers[:TAUGHT_TIES]:
        twice = replace(item, candidates=(text, text), ids=("0", "1"), label=None)
        if not asked and _knows_ties(alone.judging(twice), judge.calibration):
            break
        await alone.ask(twice)
        asked += 1
    return asked


def _knows_ties(judging: Judging, store: Calibration | None) -> bool:
    """Say whether a request would find T's log-odds in a store, or has none to teach."""
    if store is None:
        return True
    job = judging.errand.plan.asked(judging.errand.job)
    known = store.of(key(case_of(job), ballot_of(job)), "tie_odds")
    return known is not None and known.count >= ENOUGH


async def trial(
    items: Sequence[Item],
    judge: Judge,
    records: Records,
    *,
    at_once: int,
    both_orders: bool = False,
) -> AsyncGenerator[EngineError | None, None]:
    """Judge what the record lacks; after each item yield None, or why it was not judged.

    both_orders  ask again with the two candidates exchanged, where a verdict was not asked for in
                 both orders by itself: to measure, not to judge
    raises       EngineError  the engine failed `PATIENCE` times one after the other

    What the engine fails at is left out of the record, so that the next run asks again.
    """
    left = [item for item in items if item.key not in records.done]

    async def one(item: Item) -> EngineError | None:
        try:
            fields = await _asked(item, judge, both_orders)
        except EngineError as error:
            return error
        records.add(item.key, fields)
        return None

    failed = 0
    async with aclosing(completed(each(left), one, at_once)) as results:
        async for error in results:
            failed = failed + 1 if error else 0
            if error and (failed == PATIENCE or not judge.engine.alive):
                raise error
            yield error


async def _asked(item: Item, judge: Judge, both_orders: bool) -> dict[str, Any]:
    """Return the record of one item: the verdict, or the error that it will always give."""
    said = {"id": item.id, "candidates": item.ids, "label": _label(item), "about": item.about}
    try:
        reply = await judge.ask(item)
        if both_orders and len(item.candidates) == 2 and not in_both_orders(reply):
            reply["exchanged"] = await judge.ask(item, (1, 0))
    except PlanError as error:  # what the model's tokens show: too long, for one
        return {**said, **error.wire()}
    return {**said, **reply}


def in_both_orders(reply: Mapping[str, Any]) -> bool:
    """Say whether the calls of a reply show two candidates in both orders."""
    return {tuple(call["indices"]) for call in reply["calls"]} >= BOTH


def _label(item: Item) -> str | None:
    """Return the id of the better candidate, "tie", or None."""
    if item.label is None:
        return None
    return "tie" if item.label == TIE else item.ids[item.label]
