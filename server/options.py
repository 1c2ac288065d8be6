"""From a command's options to settings, and how a mistake is told."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, NoReturn, ParamSpec, get_type_hints

import typer

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from server.settings import Settings

Given = dict[str, Any]  # values of options by setting; None = not given
P = ParamSpec("P")

RENAMED = {"api_keys": "api_key"}  # settings whose option has another name


class Chosen:
    """Options of every command that loads a model: each is the setting of the same name."""

    model: Annotated[
        str | None,
        typer.Option(
            help="folder, .gguf file, or name on the hub (org/name[@revision])  "
            "[default: the embedded one]"
        ),
    ]
    device: Annotated[
        str | None,
        typer.Option(help="torch device, or auto: a GPU if there is one  [default: auto]"),
    ]
    dtype: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, bfloat16 or float16; auto = the checkpoint's, float32 where the "
            "CPU cannot compute in it  [default: auto]"
        ),
    ]
    device_map: Annotated[
        str | None,
        typer.Option(
            help="spread the layers: auto, balanced, balanced_low_0, sequential, or JSON from "
            "module to device"
        ),
    ]
    max_memory: Annotated[
        str | None, typer.Option(help="what --device-map may fill, as 0=10GiB,cpu=30GiB")
    ]
    threads: Annotated[int | None, typer.Option(help="of the model's worker")]
    max_model_len: Annotated[int | None, typer.Option(help="context, tokens")]
    reuse_bytes: Annotated[
        int | None, typer.Option(help="cache kept of prefixes and document sets, bytes")
    ]


class ChosenElsewhere:
    """Options of every command that may ask a model on another server."""

    engine: Annotated[
        str | None, typer.Option(help="hf, or remote: a model on another server  [default: hf]")
    ]
    remote_url: Annotated[
        str | None, typer.Option(help="base of an OpenAI-compatible API, as http://host:9000/v1")
    ]
    remote_key: Annotated[
        str | None, typer.Option(help="its key; EVENHAND_REMOTE_KEY keeps it out of process lists")
    ]
    remote_model: Annotated[
        str | None, typer.Option(help="name of its model  [default: the first it lists]")
    ]
    remote_concurrency: Annotated[
        int | None, typer.Option(help="requests to it at once  [default: 8]")
    ]
    remote_timeout: Annotated[
        float | None, typer.Option(help="seconds of silence it is given  [default: 300]")
    ]
    remote_retries: Annotated[
        int | None, typer.Option(help="of what it could not answer  [default: 2]")
    ]
    remote_logprobs: Annotated[
        str | None, typer.Option(help="whether it reports them: auto, yes, no  [default: auto]")
    ]


def options_of(*groups: type) -> dict[str, Any]:
    """Return the annotations of some groups' options, by setting."""
    return {
        name: hint
        for group in groups
        for name, hint in get_type_hints(group, include_extras=True).items()
    }


def taking(
    *groups: type, without: Sequence[str] = ()
) -> Callable[[Callable[Concatenate[Given, P], None]], Callable[P, None]]:
    """Return a decorator that gives a command the options of some groups.

    The command gets what was given for them as its first argument, by setting.
    """
    options = {name: hint for name, hint in options_of(*groups).items() if name not in without}

    def decorate(command: Callable[Concatenate[Given, P], None]) -> Callable[P, None]:
        @wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            command({name: kwargs.pop(name, None) for name in options}, *args, **kwargs)

        own = inspect.signature(command, eval_str=True)
        _, *parameters = own.parameters.values()
        parameters += [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
            for name, annotation in options.items()
        ]
        run.__dict__["__signature__"] = own.replace(parameters=parameters)
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        del run.__wrapped__  # its signature is not this one
        return run

    return decorate


def read_settings(given: Given) -> Settings:
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
