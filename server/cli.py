"""`evenhand`: the command line."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvicorn
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from server.app import create_app
from server.engines.base import Engine
from server.engines.registry import load
from server.errors import EvenhandError
from server.serving import ABORT_SECONDS, Drained
from server.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

OPTIONS = {"api_keys": "api_key"}  # settings whose option has another name


@app.callback()
def evenhand() -> None:
    """Answer as if the order of the inputs did not matter."""


@app.command()
def serve(
    model: Annotated[
        Path | None, typer.Option(help="folder of the model  [default: the embedded one]")
    ] = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="a name clients may ask for; may be repeated")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="port, 0 = any  [default: 8000]")] = None,
    device: Annotated[str | None, typer.Option(help="torch device  [default: cpu]")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16  [default: float32]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="of the model's worker")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="context, tokens")] = None,
    reuse_bytes: Annotated[
        int | None, typer.Option(help="Cache kept of prefixes and document sets, bytes.")
    ] = None,
    queue_limit: Annotated[
        int | None, typer.Option(help="requests answered at once  [default: 16]")
    ] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(help="accepted bearer key; may be repeated")
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict/--no-strict", help="refuse unknown fields")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error")] = None,
) -> None:
    """Serve a model over HTTP; what is not given comes from EVENHAND_*, then from the defaults."""
    given = dict(locals())
    given |= {field: given.pop(option) for field, option in OPTIONS.items()}
    try:
        settings = _settings(given)
        engine = load(settings)
    except EvenhandError as error:
        _fail(error.message)
    with asyncio.Runner() as runner:
        runner.run(_serve(settings, engine))


def _settings(given: dict[str, Any]) -> Settings:
    """Return the settings, or leave with one line that says what is wrong."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        _fail(_fault(error.errors(include_url=False, include_context=False)[0]))


def _fault(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    option = f"--{OPTIONS.get(name, name).replace('_', '-')} (or EVENHAND_{name.upper()})"
    rule = error["msg"].removeprefix("Input should be ")
    return f"{option} must be {rule}, got {str(error['input'])[:200]!r}; correct it"


def _fail(message: str) -> NoReturn:
    print(f"evenhand: {message}", file=sys.stderr)
    raise typer.Exit(1)


async def _serve(settings: Settings, engine: Engine) -> None:
    """Serve until a signal, then close the engine."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(message)s")
    application = create_app(settings, engine)
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=int(ABORT_SECONDS) + 1,
    )

    def listening(address: str) -> None:
        names = ", ".join(settings.names)
        abilities = ", ".join(sorted(engine.offers))
        print(f"Evenhand serves {names} ({engine.info.root}) on {address}", flush=True)
        print(f"It offers {abilities}", flush=True)
        for ability, reason in engine.info.refusals.items():
            print(f"It does not offer {ability}: {reason}", flush=True)

    server = Drained(
        config,
        admission=application.state.admission,
        seconds=settings.drain_seconds,
        listening=listening,
    )
    try:
        await server.serve()
    finally:
        await engine.close()
