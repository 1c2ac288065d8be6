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
Seed = Annotated[int, typer.Option(help="of the coin that places answers, and of sampling")]
Form = Annotated[str | None, typer.Option(help="relation, score or likert")]
Template = Annotated[str | None, typer.Option(help="name of a built-in template, or one inline")]
Criteria = Annotated[str | None, typer.Option(help="what counts, for items without their own")]
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
