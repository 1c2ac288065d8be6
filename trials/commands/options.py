"""What the commands share: the options that name a judge, and how a trial that stops is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from server.options import fail
from trials import methods

METHODS = ", ".join(methods.METHODS)
COMPARED = ",".join(methods.COMPARED)
INTERRUPTED = 130  # what a shell expects of a process that Ctrl-C ended

Data = Annotated[
    list[str],
    typer.Argument(
        help="file of pairs (or several that belong together, or a folder); pocket[:COUNT] = "
        "the embedded model's own task",
        show_default=False,
    ),
]
Schema = Annotated[str, typer.Option("--format", help="format of the data")]
Limit = Annotated[int | None, typer.Option(min=1, help="judge the first so many items only")]
Sample = Annotated[
    int | None, typer.Option(min=1, help="judge so many items, drawn from the data by the seed")
]
Seed = Annotated[
    int, typer.Option(help="of the coin that places answers, of the sample, and of sampling")
]
Form = Annotated[str | None, typer.Option(help="relation, score or likert")]
Template = Annotated[str | None, typer.Option(help="name of a built-in template, or one inline")]
Criteria = Annotated[str | None, typer.Option(help="what counts, for items without their own")]
Labels = Annotated[
    str | None,
    typer.Option(help="fixed, random, numbers, ordinals or brackets: what answers are called"),
]
Ties = Annotated[
    str,
    typer.Option(
        help="allow or forbid; auto = forbid where no label of the data is a tie, but to a model "
        "that learnt to say it"
    ),
]
TieMargin = Annotated[
    float | None, typer.Option(min=0, help="a margin up to this is a tie, in the form's unit")
]
MinProbability = Annotated[
    float | None, typer.Option(min=0, max=1, help="of being right; below it nobody is named")
]
MaxCalls = Annotated[int | None, typer.Option(min=1, help="of the model, per item")]
StateDir = Annotated[Path | None, typer.Option(help="folder of the slot biases that are known")]


@contextmanager
def told(interrupted: str) -> Iterator[None]:
    """Turn an error into one line and exit status 1, and Ctrl-C into one line and 130.

    interrupted  said after Ctrl-C
    """
    from server.errors import EvenhandError

    try:
        yield
    except EvenhandError as error:
        fail(error.message)
    except KeyboardInterrupt:
        print(f"evenhand: {interrupted}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def stages(text: str) -> list[dict[str, Any]]:
    """Read `--stages`; what is in the list is checked with the first item."""
    from server.errors import PlanError

    try:
        found = json.loads(text)
    except ValueError as error:
        raise PlanError(
            f'--stages must be JSON, got a fault ({error}); write \'[{{"stage": "swap"}}]\''
        ) from None
    if not isinstance(found, list):
        raise PlanError('--stages must be a list, got another value; write \'[{"stage": "swap"}]\'')
    return found
