"""`evenhand`: the command line."""

from __future__ import annotations

import typer

from server.cli import serve
from server.inspecting import inspect
from server.lsp.cli import lsp
from trials.commands.evidence import evidence
from trials.commands.judge import judge
from trials.commands.judge_bias import judge_bias

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a help text has brackets of its own
)

for command in (evidence, inspect, judge, judge_bias, lsp, serve):
    app.command()(command)


@app.callback()
def evenhand() -> None:
    """Answer as if the order of the inputs did not matter."""
