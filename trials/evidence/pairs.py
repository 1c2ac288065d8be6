"""Pairs: every method over a data set, with one engine whose answers are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from portia.split import units
from server.errors import EvenhandError
from server.judge.calibration import Calibration
from trials.datasets import Item
from trials.evidence.remembered import Remembered
from trials.records import Records
from trials.report.figures import Report
from trials.trial import Judge, check, teach, trial

SPLIT = 3  # units that both answers must have for PORTIA to have three parts


async def judged(
    items: Sequence[Item], methods: Mapping[str, list[dict[str, Any]]], engine: Remembered
) -> list[Report]:
    """Judge all items by every method; what keeps a method from running is its report.

    Seconds are the engine's, each call alone, so that shared calls count in full.
    """
    plain = Judge(engine, engine.info.id, None, {}, clock=lambda: engine.seconds)
    return [await _judged(name, stages, items, plain) for name, stages in methods.items()]


async def _judged(
    name: str, stages: list[dict[str, Any]], items: Sequence[Item], plain: Judge
) -> Report:
    with closing(Calibration(None)) as calibration:
        judge = replace(plain, stages=stages, calibration=calibration)
        try:
            if name == "calibrate":
                await teach(items, judge)
            check(items, judge)
            with closing(Records(None, judge.run(items[0]))) as records:
                async for error in trial(items, judge, records, at_once=1, both_orders=True):
                    if error is not None:
                        raise error
                found = [records.done[item.key] for item in items]
        except EvenhandError as error:
            return Report(name, stages, reason=error.message)
        return Report.of(name, stages, found)


def splittable(items: Sequence[Item]) -> list[Item]:
    """Return the pairs whose answers both have enough units to be split."""
    return [item for item in items if all(len(units(text)) >= SPLIT for text in item.candidates)]
