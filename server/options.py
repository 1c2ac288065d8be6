"""From a command's options to settings, and how a mistake is told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from server.settings import Settings

RENAMED = {"api_keys": "api_key"}  # settings whose option has another name


def read_settings(given: dict[str, Any]) -> Settings:
    """Return the settings, or leave with one line that says what is wrong.

    given  by field; None = not given, so that EVENHAND_* and then the default hold
    """
    from pydantic import ValidationError

    from server.errors import PlanError
    from server.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except PlanError as error:
        fail(error.message)
    except ValidationError as error:
        fail(_said(error.errors(include_url=False, include_context=False)[0]))


def _said(fault: ErrorDetails) -> str:
    """Return what is wrong with a setting as one sentence."""
    name = str(fault["loc"][0])
    option = f"--{RENAMED.get(name, name).replace('_', '-')} (or EVENHAND_{name.upper()})"
    rule = fault["msg"].removeprefix("Input should be ")
    return f"{option} must be {rule}, got {str(fault['input'])[:200]!r}; correct it"


def fail(message: str) -> NoReturn:
    """Leave with one line on standard error."""
    print(f"evenhand: {message}", file=sys.stderr)
    raise typer.Exit(1)
