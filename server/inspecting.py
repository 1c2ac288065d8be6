"""`evenhand inspect`: what the gate measured of a model, and what can be asked of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server import options

if TYPE_CHECKING:
    from rich.table import Table

MIB, GIB = 2**20, 2**30


@options.taking(options.Chosen, without=("model",))
def inspect(
    chosen: options.Given,
    model: Annotated[
        str | None,
        typer.Argument(
            help="folder, .gguf file, or name on the hub (org/name[@revision])  "
            "[default: the embedded one]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Load a model, and print its layers, its memory, and which readings suit it."""
    from server.errors import EvenhandError

    settings = options.read_settings({**chosen, "model": model})
    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
    try:
        found = _measured(settings)
    except EvenhandError as error:
        options.fail(error.message)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    Console().print(_table(found))


def _measured(settings: Any) -> dict[str, Any]:  # noqa: ANN401  `Settings`, imported when it runs
    """Load a model, and return what is known of it (EvenhandError)."""
    from server.engines.registry import load_here

    engine = load_here(settings)
    try:
        info = engine.info
        return {
            "model": info.id,
            "root": info.root,
            **engine.portrait,
            "dtype": info.dtype,
            "device": info.device,
            "context": info.max_model_len,
            "abilities": sorted(info.abilities),
            "readings": engine.readings,
            "executor": info.executor or None,
            "executor_refusals": dict(info.executors),
            "attention_refusal": info.refusals.get("attention"),
        }
    finally:
        asyncio.run(engine.close())


def _table(found: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE, show_header=False, pad_edge=False, title_justify="left")
    made.title = Text(f"{found['model']} ({found['root']})")
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in _rows(found):
        made.add_row(name, Text(value))
    return made


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "architecture", found["architecture"]
    yield "parameters", f"{found['parameters']:,}"
    yield "weights", f"{_size(found['weight_bytes'])} as {found['dtype']}"
    yield "devices", ", ".join(found["devices"])
    yield "vocabulary", f"{found['vocabulary']:,} tokens"
    yield "trained length", "-" if found["trained_length"] is None else _tokens(found)
    if found["heads"]:
        heads = f"{found['heads']} of width {found['head_width']}"
        yield "heads", f"{heads}; keys and values: {found['kv_heads']}"
    for at, kind in enumerate(found["layers"] or ()):
        yield "" if at else "layers", _layer(kind)
    if found["layers"] is None:
        yield "layers", f"{found['layer_count']}, not measured"
    if found["cache_bytes"] is not None:
        yield "cache of 1,000 tokens", _size(found["cache_bytes"])
    yield "abilities", ", ".join(found["abilities"])
    if found["attention_refusal"] is not None:
        yield "no attention", found["attention_refusal"]
    for name, reason in found["readings"].items():
        yield f"reading {name}", "suits" if reason is None else f"no: {reason}"
    if found["executor"] is not None:
        yield "executor", found["executor"]
    for name, reason in found["executor_refusals"].items():
        yield f"not {name}", reason


def _layer(kind: Mapping[str, Any]) -> str:
    """Return one kind of layer in words."""
    said = [f"{kind['count']} x"]
    if kind["positions"] == "none":
        said.append("no positions,")
    else:
        base = f"base {kind['base']:,.10g}, " if kind["base"] is not None else ""
        said.append(f"rotary {kind['positions']}, {base}width {kind['rotated']},")
    said.append("whole text" if kind["window"] is None else f"window of {kind['window']:,} tokens")
    return " ".join(said) + (f"; {kind['refusal']}" if kind["refusal"] else "")


def _tokens(found: Mapping[str, Any]) -> str:
    served = (
        "" if found["context"] == found["trained_length"] else f" ({found['context']:,} served)"
    )
    return f"{found['trained_length']:,} tokens{served}"


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
