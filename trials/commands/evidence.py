"""`evenhand evidence`: what the techniques do to real models, as tables with intervals."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.options import Chosen, Given, taking
from trials.commands import options

if TYPE_CHECKING:
    from trials.evidence.models import Model
    from trials.evidence.study import Found, Sizes

PARTS = "judge,split,documents,keys"
SETS = "natural,adversarial,mt-bench"
SOFTWARE = ("evenhand", "torch", "transformers")


@taking(Chosen, without=("model",))
def evidence(
    chosen: Given,
    models: Annotated[Path, typer.Argument(help="folder of models, or one model")],
    data: Annotated[
        Path, typer.Option(help="folder with LLMBar and lost-in-the-middle, as they are published")
    ],
    out: Annotated[
        Path, typer.Option(help="folder of answers, continued if there, and of the pages")
    ] = Path("evidence"),
    parts: Annotated[str, typer.Option(help="what to measure, with commas between")] = PARTS,
    sets: Annotated[str, typer.Option(help="of pairs")] = SETS,
    methods: Annotated[
        str | None, typer.Option(help="to judge them by, with commas between  [default: all]")
    ] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="of each data set, a sample")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="among documents")] = None,
    passages: Annotated[str | None, typer.Option(help="of each question, as 10,20")] = None,
    seed: options.Seed = 0,
    full: Annotated[bool, typer.Option("--full", help="everything, of large models too")] = False,
) -> None:
    """Measure judges and readers on the models of a folder. After Ctrl-C it goes on where it was.

    A model of more than a billion parameters, and long data sets, are measured on a seeded sample.
    """
    given = dict(locals())
    given |= given.pop("chosen")
    with options.told("stopped; run the same command again to go on"):
        from trials.commands import running
        from trials.evidence import models as found

        running.check_paths(out / "evidence.md")
        sections = [_section(model, given) for model in found.models(models)]
        running.write_text(out / "evidence.md", "\n\n".join(sections) + "\n")


def _section(model: Model, given: Mapping[str, Any]) -> str:
    """Study one model, print and return its page."""
    from trials.evidence.tables import page

    found, sizes = asyncio.run(_studied(model, given))
    told = f"## {model.name}\n\n{_facts(model, sizes)}\n\n{page(found)}"
    print(told, flush=True)
    return told


async def _studied(model: Model, given: Mapping[str, Any]) -> tuple[Found, Sizes]:
    from rich.console import Console

    from server.engines import registry
    from server.options import options_of, read_settings
    from trials.evidence.remembered import Remembered
    from trials.evidence.study import PARTS as KNOWN_PARTS
    from trials.evidence.study import SETS as KNOWN_SETS
    from trials.evidence.study import Sizes, study
    from trials.methods import METHODS

    asked = {name: given[name] for name in options_of(Chosen) if given.get(name) is not None}
    settings = read_settings({**asked, "model": str(model.path)})
    with Console(stderr=True).status(f"loading {model.name}"):
        engine = registry.load_here(settings)
    sizes = Sizes.fit(
        engine.portrait["parameters"],
        given["full"],
        pairs=given["pairs"],
        questions=given["questions"],
        documents=_counts(given["passages"]),
        parts=_names(given["parts"], "parts", KNOWN_PARTS),
        sets=_names(given["sets"], "sets", KNOWN_SETS),
        methods=_names(given["methods"] or ",".join(METHODS), "methods", METHODS),
        seed=given["seed"],
    )
    file = given["out"] / f"{model.name}.jsonl"
    remembered = Remembered(engine, file)
    try:
        return await study(remembered, given["data"], sizes), sizes
    finally:
        await remembered.close()


def _counts(text: str | None) -> tuple[int, ...] | None:
    """Read `10,20` (PlanError)."""
    from server.errors import PlanError

    if text is None:
        return None
    counts = [part.strip() for part in text.split(",")]
    if not all(count.isdecimal() and 2 <= int(count) <= 100 for count in counts):
        raise PlanError(f"passages must be counts of 2 to 100, got {text[:60]!r}; write 10,20")
    return tuple(map(int, counts))


def _names(text: str, what: str, known: Collection[str]) -> tuple[str, ...]:
    """Read names with commas between (PlanError)."""
    from server.errors import PlanError

    found = tuple(part.strip() for part in text.split(","))
    for name in found:
        if name not in known:
            raise PlanError(f"{what} must be of {', '.join(known)}, got {name[:60]!r}; name these")
    return found


def _facts(model: Model, sizes: Sizes) -> str:
    """Return what the figures were measured on."""
    software = ", ".join(f"{name} {version(name)}" for name in SOFTWARE)
    return (
        f"`{model.name}`, sha256 `{model.digest}`. Measured {datetime.now(UTC):%Y-%m-%d} on "
        f"{_processor()}; {software}; seed {sizes.seed}. Intervals cover 95 %."
    )


def _processor() -> str:
    """Return the processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.machine()
