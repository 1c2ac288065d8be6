"""`evenhand serve`: a model over HTTP."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from server import options
from server.app import create_app
from server.engines.base import Engine
from server.engines.registry import load
from server.errors import EvenhandError
from server.judge.calibration import Calibration
from server.serving import ABORT_SECONDS, Drained
from server.settings import Settings


@options.taking(options.Chosen, options.ChosenElsewhere)
def serve(
    chosen: options.Given,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="a name clients may ask for; may be repeated")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="port, 0 = any  [default: 8000]")] = None,
    queue_limit: Annotated[
        int | None, typer.Option(help="requests answered at once  [default: 16]")
    ] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(help="accepted bearer key; may be repeated")
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict/--no-strict", help="refuse unknown fields")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="folder of what is kept: slot biases  [default: none]")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error")] = None,
) -> None:
    """Serve a model over HTTP; what is not given comes from EVENHAND_*, then from the defaults."""
    given = dict(locals())
    given |= given.pop("chosen")
    given |= {field: given.pop(option) for field, option in options.RENAMED.items()}
    try:
        settings = options.read_settings(given)
        # before the model loads, which says who reads, and why others do not
        logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(message)s")
        Calibration(settings.slot_biases).close()  # a fault of the file is met before anything runs
        loaded = load(settings)
    except EvenhandError as error:
        options.fail(error.message)
    with asyncio.Runner() as runner:
        runner.run(_serve(settings.naming(loaded.info.id), loaded))


async def _serve(settings: Settings, engine: Engine) -> None:
    """Serve until a signal, then close the engine."""
    application = create_app(settings, engine)
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        ws_max_size=settings.max_body_bytes,
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
