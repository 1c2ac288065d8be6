"""`evenhand judge-bias`: how much a judge depends on the order, method by method."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.options import Chosen, ChosenElsewhere, Given, fail, taking
from trials.commands import options

if TYPE_CHECKING:
    from rich.progress import Progress

    from trials.datasets import Item
    from trials.report.figures import Report
    from trials.trial import Judge


@taking(Chosen, ChosenElsewhere)
def judge_bias(
    chosen: Given,
    data: options.Data,
    methods: Annotated[
        str, typer.Option(help=f"which to compare, with commas between them: {options.METHODS}")
    ] = options.COMPARED,
    html: Annotated[Path | None, typer.Option(help="write a page with plots there")] = None,
    json: Annotated[Path | None, typer.Option(help="write all figures there")] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for a record per method, continued if there")
    ] = None,
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
    concurrency: Annotated[
        int, typer.Option(min=1, help="items judged at once; 1 = seconds are those of one verdict")
    ] = 1,
) -> None:
    """Ask about every pair in both orders with each method, and compare them."""
    given = dict(locals())
    given |= given.pop("chosen")
    again = "run the same command again to go on" if out else "with --out it could be continued"
    with options.told(f"stopped; {again}"):
        from trials.commands import running
        from trials.report import plots

        if html is not None:
            plots.check()
        running.check_paths(html, json)
        asked = running.methods(methods)
        items = running.items(given)
        reports, facts = asyncio.run(_measured(items, asked, given))
        _show(reports, facts, given)


async def _measured(
    items: Sequence[Item], asked: Mapping[str, list[dict[str, Any]]], given: Mapping[str, Any]
) -> tuple[list[Report], dict[str, Any]]:
    """Run every method, one after the other, with one engine; return what is known of them."""
    from server.judge.calibration import Calibration
    from trials.commands import running
    from trials.trial import TAUGHT

    async with running.judge(given, items) as plain:
        reports = []
        with running.bars() as bar:
            for name, stages in asked.items():  # a store each: none gains by what another taught
                with closing(Calibration(None)) as calibration:
                    judge = replace(plain, stages=stages, calibration=calibration)
                    reports.append(await _one(name, items, judge, bar, given))
        facts = {"model": plain.name, "items": len(items), **plain.fields, **plain.data}
        facts |= {"concurrency": given["concurrency"], "evenhand": version("evenhand")}
        if "calibrate" in asked:
            facts["pairs that taught calibrate"] = min(TAUGHT, len(items))
        return reports, facts


async def _one(
    name: str, items: Sequence[Item], judge: Judge, bar: Progress, given: Mapping[str, Any]
) -> Report:
    """Run one method; what keeps it from running is its report.

    raises  PlanError  its record is of another run
    """
    from server.errors import EngineError, EvenhandError
    from trials.commands import running
    from trials.records import Records
    from trials.report.figures import Report
    from trials.trial import check, teach

    stages = judge.stages or []
    try:
        if name == "calibrate":
            await teach(items, judge)
        check(items, judge)
    except EvenhandError as error:
        return Report(name, stages, reason=error.message)
    out = None if given["out"] is None else given["out"] / f"{name}.jsonl"
    with closing(Records(out, judge.run(items[0]))) as records:
        asked = {"at_once": given["concurrency"], "both_orders": True}
        try:
            return await running.run(name, items, judge, records, bar, **asked)
        except EngineError as error:
            return Report(name, stages, reason=error.message, failure=error.message)


def _show(reports: Sequence[Report], facts: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Print the tables and which method to use, and write the files."""
    from rich.console import Console

    from trials.commands import running
    from trials.report.comparing import compared
    from trials.report.terminal import differences, remarks, tables

    title, console = " ".join(given["data"]), Console()
    for each in tables(reports, f"Judge bias: {title}", console.width):
        console.print(each)
    comparison = compared(reports)
    if comparison is not None:
        console.print(differences(comparison))
        console.print(comparison.advice(), highlight=False, markup=False)
    for remark in remarks(reports):
        print(remark, file=sys.stderr)
    running.write(
        given["json"],
        {
            "data": title,
            **facts,
            "methods": [report.wire() for report in reports],
            "comparison": comparison and comparison.wire(),
        },
    )
    if given["html"] is not None:
        from trials.report.page import page

        running.write_text(given["html"], page(reports, title, facts, comparison))
    if any(report.missing or report.failure for report in reports):
        fail("verdicts are missing, since the engine failed; run it again")
