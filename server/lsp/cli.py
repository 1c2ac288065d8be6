"""`evenhand lsp`: the command that an editor starts."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from server.options import fail

KEY = "EVENHAND_LSP_KEY"


def lsp(
    url: Annotated[
        str | None, typer.Option(help="of the server  [default: http://127.0.0.1:8000]")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help=f"its key; {KEY} keeps it out of process lists")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="name of its model  [default: the first it lists]")
    ] = None,
) -> None:
    """Complete code in an editor, over standard input and output, by a server that runs."""
    try:
        from server.lsp.server import create_server
    except ModuleNotFoundError as error:
        fail(
            f"evenhand lsp must have its own packages, got no {error.name}; "
            "pip install 'evenhand[lsp]'"
        )
    from server.lsp.options import Options, changed

    given = {"url": url, "apiKey": api_key or os.environ.get(KEY), "model": model}
    options, complaints = changed(Options(), given)
    if complaints:
        fail(complaints[0])
    # standard output is the protocol's; of pygls only what is wrong, since it would log the texts
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    create_server(options).start_io()
