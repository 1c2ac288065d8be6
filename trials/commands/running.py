"""Running a trial in the foreground: the engine's life, the bar, the report."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from server.engines import registry
from server.errors import EngineError, PlanError
from server.judge.calibration import Calibration
from server.options import Chosen, ChosenElsewhere, options_of, read_settings
from trials.datasets import TIE, Item, load
from trials.fitting import Fitting
from trials.methods import METHODS
from trials.records import Records
from trials.report.figures import Report
from trials.trial import Judge, teach_ties, trial

SETTINGS = (*options_of(Chosen, ChosenElsewhere), "state_dir")
FIELDS = (
    "form",
    "template",
    "labels",
    "criteria",
    "ties",
    "tie_margin",
    "min_probability",
    "max_calls",
    "seed",
)


def items(given: Mapping[str, Any]) -> list[Item]:
    """Return the items that the options name (PlanError).

    A larger sample has all of a smaller one, and of the data at hand only the ids matter.
    """
    found = load(given["data"], given["schema"], given["seed"])[: given["limit"]]
    if given["sample"] is None:
        return found

    def chance(place: int) -> float:
        return Random(f"sample {given['seed']} {found[place].id}").random()

    drawn = sorted(range(len(found)), key=chance)[: given["sample"]]
    return [found[place] for place in sorted(drawn)]


def ties(said: str, items: Sequence[Item]) -> str | None:
    """Return what to ask a judge about ties: auto allows them where a label of the data is one.

    Elsewhere it is left to the server's auto, which forbids them to any model that did not learn
    to say T: a prompt without T is one that those who did learn it do not know.
    """
    if said != "auto":
        return said
    return "allow" if any(item.label == TIE for item in items) else None


def fitting(given: Mapping[str, Any], items: Sequence[Item]) -> Fitting | None:
    """Return how to fit to the items' labels, None where that is not asked for (PlanError)."""
    if given["fit"] is None:
        return None
    settings = read_settings(_picked(given, SETTINGS))
    found = Fitting.of(given["fit"], given["fit_method"], settings.slot_biases)
    found.check(items)
    return found


@asynccontextmanager
async def judge(given: Mapping[str, Any], items: Sequence[Item]) -> AsyncIterator[Judge]:
    """Yield a judge of the options' engine and fields, without stages; its engine is then closed.

    items   what it will be asked about

    raises  PlanError, EngineError  the engine cannot be loaded, or the store of slot biases
    """
    settings = read_settings(_picked(given, SETTINGS))
    with closing(Calibration(settings.slot_biases)) as calibration:
        with Console(stderr=True).status("loading the model"):
            engine = registry.load(settings)
        try:
            fields = _picked({**given, "ties": ties(given["ties"], items)}, FIELDS)
            chosen = _picked(given, ("sample",))
            yield Judge(engine, engine.info.id, None, fields, calibration, data=chosen)
        finally:
            await engine.close()


def _picked(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if given.get(name) is not None}


def stages(method: str) -> list[dict[str, Any]]:
    """Return a method's stages (PlanError)."""
    if method not in METHODS:
        raise PlanError(
            f"method must be one of {', '.join(METHODS)}, got {method[:60]!r}; "
            "name one, or write its --stages"
        )
    return METHODS[method]


def methods(names: str) -> dict[str, list[dict[str, Any]]]:
    """Return the stages of the methods in a list with commas (PlanError)."""
    found = {name.strip(): stages(name.strip()) for name in names.split(",") if name.strip()}
    if not found:
        raise PlanError(f"methods must name one, got {names[:60]!r}; write none,swap")
    return found


class Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, or a dash before there is one."""
        speed = task.finished_speed or task.speed
        return Text("- /s" if speed is None else f"{speed:.1f} /s", style="progress.data.speed")


def bars() -> Progress:
    """Return bars on standard error, with the rate and the time left; none where it is a file."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


async def run(
    name: str,
    items: Sequence[Item],
    judge: Judge,
    records: Records,
    bar: Progress,
    *,
    at_once: int,
    both_orders: bool = False,
) -> Report:
    """Judge what the record lacks, and report it all; what the engine failed at is missing.

    raises  EngineError  the engine fails again and again
    """
    done = sum(item.key in records.done for item in items)
    if done < len(items):
        await teach_ties(items, judge)
    task = bar.add_task(name, total=len(items), completed=done)
    failures: list[EngineError] = []
    async for error in trial(items, judge, records, at_once=at_once, both_orders=both_orders):
        if error is None:
            bar.advance(task)
        else:
            failures.append(error)
    known = [records.done[item.key] for item in items if item.key in records.done]
    report = Report.of(name, judge.run(items[0])["stages"], known)
    failure = failures[-1].message if failures else None
    return replace(report, missing=len(failures), failure=failure)


def check_paths(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before anything runs (PlanError)."""
    for path in paths:
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("a").close()
            except OSError as error:
                raise _unwritable(path, error) from None


def write(path: Path | None, value: Mapping[str, Any]) -> None:
    """Write a report as JSON, if it is asked for (PlanError)."""
    if path is not None:
        write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole (PlanError)."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> PlanError:
    return PlanError(
        f"report must be a file that can be written, got {path} ({error.strerror}); name another"
    )
