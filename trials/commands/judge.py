"""`evenhand judge`: judge a data set, keep a record, report."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.options import Chosen, ChosenElsewhere, Given, fail, taking
from trials.commands import options

if TYPE_CHECKING:
    from trials.datasets import Item
    from trials.fitting import Fitting
    from trials.report.figures import Report


@taking(Chosen, ChosenElsewhere)
def judge(
    chosen: Given,
    data: options.Data,
    method: Annotated[
        str | None,
        typer.Option(help=f"{options.METHODS}; without: average, else swap"),
    ] = None,
    stages: Annotated[str | None, typer.Option(help="list of stages in JSON, instead")] = None,
    out: Annotated[
        Path, typer.Option(help="record, one JSON line per item, continued if there; - = stdout")
    ] = Path("-"),
    report: Annotated[Path | None, typer.Option(help="write the report card there (JSON)")] = None,
    schema: options.Schema = "auto",
    limit: options.Limit = None,
    sample: options.Sample = None,
    seed: options.Seed = 0,
    form: options.Form = None,
    template: options.Template = None,
    labels: options.Labels = None,
    ties: options.Ties = "auto",
    tie_margin: options.TieMargin = None,
    min_probability: options.MinProbability = None,
    criteria: options.Criteria = None,
    max_calls: options.MaxCalls = None,
    concurrency: Annotated[int, typer.Option(min=1, help="items judged at once")] = 4,
    state_dir: options.StateDir = None,
    fit: Annotated[
        str | None,
        typer.Option(
            help="labels: fit margins to the data's labels, and keep that in --state-dir for "
            "`probability`",
            metavar="labels",
        ),
    ] = None,
    fit_method: Annotated[str, typer.Option(help="temperature or isotonic")] = "temperature",
) -> None:
    """Judge a data set. After Ctrl-C or a crash the same command goes on where it was."""
    given = dict(locals())
    given |= given.pop("chosen")
    again = "run the same command again to go on" if str(out) != "-" else "nothing was recorded"
    with options.told(f"stopped; {again}"):
        from trials.commands import running

        running.check_paths(report)
        items = running.items(given)
        fitting = running.fitting(given, items)
        found, kept = asyncio.run(_judged(items, given, fitting))
        _show(found, given)
        if kept:
            print(f"evenhand: {kept}", file=sys.stderr)
        running.write(report, found.wire())
    if found.missing:
        fail(f"{found.missing} items are missing, since the engine failed; {again}")


async def _judged(
    items: list[Item], given: Mapping[str, Any], fitting: Fitting | None
) -> tuple[Report, str | None]:
    """Judge what the record lacks; return the report, and what is said of a fit."""
    from trials.commands import running
    from trials.records import Records
    from trials.trial import check

    async with running.judge(given, items) as plain:
        judge = replace(plain, stages=_stages(given))
        check(items, judge)
        name, at_once = given["method"] or "judge", given["concurrency"]
        with closing(Records(given["out"], judge.run(items[0]))) as records, running.bars() as bar:
            report = await running.run(name, items, judge, records, bar, at_once=at_once)
        if fitting is None:
            return report, None
        return report, fitting.keep(judge, items, fitting.fitted(items, records.done))


def _stages(given: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the stages asked for, None for the default (PlanError)."""
    from server.errors import PlanError
    from trials.commands import running

    method, text = given["method"], given["stages"]
    if method is not None and text is not None:
        raise PlanError(f"--stages cannot be given with a method, got {method}; leave one out")
    if text is not None:
        return options.stages(text)
    return None if method is None else running.stages(method)


def _show(report: Report, given: Mapping[str, Any]) -> None:
    """Print the report card, beside the record rather than into it."""
    from rich.console import Console

    from trials.report.terminal import remarks, tables

    console = Console(stderr=str(given["out"]) == "-")
    [card] = tables([report], f"Report card: {' '.join(given['data'])}", console.width)
    console.print(card)
    for remark in remarks([report]):
        print(remark, file=sys.stderr)
