"""Which model families readings may use, measured on tiny random models of each one.

Per family: the gate's verdict, the plain reading against stock attention, PINE against the float64
oracle, and whether permuted documents give the same bits. `--markdown` prints the README's table.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # not this folder, whose names would hide packages: the tests' helpers
    sys.path[0] = str(Path(__file__).parents[1] / "tests")

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import permutations

import torch
from oracles import OracleReading
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks._families import FAMILIES, Family
from kvedit.hf import Door, open_door
from kvedit.plain import PlainReading
from kvedit.reading import LayerKind, Reading
from kvedit.segments import Ids, Segments
from pine.reading import PineReading

PREFIX, SUFFIX = (3, 14, 15, 92), (65, 35, 89)
DOCUMENTS: tuple[Ids, ...] = ((79, 32, 38, 46, 26), (43, 38), (32, 79, 50, 28, 84, 19, 71, 69))
STEPS: Ids = (39, 93)  # tokens read one by one after the prompt


@dataclass(frozen=True)
class Verdict:
    """What was measured of one family; errors relative to the greatest expected logit.

    refusal   the gate's, or None; then the other fields are measured
    unsuited  why PINE cannot read it, or None; only then what is measured of PINE is
    geometry  per layer, for people
    plain     the plain reading against stock, prefill and decode
    pine      PINE against the float64 oracle, all rows of the prompt
    moved     PINE against the plain reading: how much the documents' order matters
    bitwise   whether all orders of the documents gave the same bits, prefill and decode
    """

    refusal: str | None
    unsuited: str | None = None
    geometry: str = ""
    plain: float = 0.0
    pine: float = 0.0
    moved: float = 0.0
    bitwise: bool = False


@torch.inference_mode()
def measure(family: Family) -> Verdict:
    """Open the door of the family's tiny model and hold its readings against what they must be."""
    model = family.build()
    segments = Segments(PREFIX, DOCUMENTS, SUFFIX).canonical()
    ids = torch.tensor([segments.ids + STEPS])
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # transformers' SDPA forgets the cap
    stock = model(ids, use_cache=False).logits
    door = open_door(model)
    if door.refusal is not None:
        return Verdict(door.refusal)
    prompt = len(segments.ids)
    plain = logits(door, PlainReading(), ids, prompt)
    unsuited = door.suits(PineReading(segments))
    geometry = ", ".join(dict.fromkeys(map(described, door.layers)))
    if unsuited is not None:
        return Verdict(None, unsuited, geometry, off(plain, stock))
    pine = logits(door, PineReading(segments), ids, prompt)
    exact = replace(door, model=double(model))
    oracle = exact.run(ids[:, :prompt], OracleReading(segments), keep=0)
    return Verdict(
        None,
        None,
        geometry,
        off(plain, stock),
        off(pine[:, :prompt], oracle),
        off(pine, plain),
        all(torch.equal(each, pine[:, prompt - 1 :]) for each in permuted(door)),
    )


def double(model: PreTrainedModel) -> PreTrainedModel:
    """Return a float64 copy; experts one after another, since grouped products have no float64."""
    copied = copy.deepcopy(model).double()
    if copied._can_set_experts_implementation():
        copied.set_experts_implementation("eager")
    return copied


def logits(door: Door, reading: Reading, ids: Tensor, prompt: int) -> Tensor:
    """Return the logits of every token: the prompt at once, the rest one by one."""
    pieces = [ids[:, :prompt], *ids[:, prompt:].split(1, 1)]
    return torch.cat([door.forward(piece, reading, keep=0) for piece in pieces], 1)


def permuted(door: Door) -> Iterator[Tensor]:
    """Yield PINE's last-token and decode logits for each order of the documents."""
    for documents in permutations(DOCUMENTS):
        segments = Segments(PREFIX, documents, SUFFIX).canonical()
        ids, prompt = torch.tensor([segments.ids + STEPS]), len(segments.ids)
        yield logits(door, PineReading(segments), ids, prompt)[:, prompt - 1 :]


def off(found: Tensor, expected: Tensor) -> float:
    """Return the greatest difference relative to the greatest expected entry."""
    exact = expected.double()
    return float((found.double() - exact).abs().max() / exact.abs().max())


def described(layer: LayerKind) -> str:
    """Return one layer's geometry for people."""
    geometry = layer.geometry
    own = "no positions" if geometry is None else f"{geometry.width} {geometry.layout}"
    return own if layer.window is None else f"{own} in a window of {layer.window}"


def markdown(verdicts: dict[Family, Verdict]) -> str:
    """Return the README's table of families, and whether readings may use them."""
    lines = ["| family | readings | PINE | why not |", "|---|---|---|---|"]
    for family, seen in verdicts.items():
        door, pine = (not each for each in (seen.refusal, seen.refusal or seen.unsuited))
        answers = " | ".join("yes" if each else "no" for each in (door, pine))
        lines.append(f"| {family.name} | {answers} | {family.why} |")
    return "\n".join(lines)


def show(verdicts: dict[Family, Verdict]) -> None:
    """Print the table of everything that was measured."""
    table = Table(title="Families: tiny random models, float32; errors of the greatest logit")
    for column in ("family", "verdict", "geometry", "plain", "PINE", "permutations"):
        table.add_column(column)
    for family, seen in verdicts.items():
        if seen.refusal is None:
            bits = "bitwise equal" if seen.bitwise else "differ"
            pine = (f"{seen.pine:.1e}", bits) if seen.unsuited is None else (seen.unsuited, "")
            table.add_row(family.name, "yes", seen.geometry, f"{seen.plain:.1e}", *pine)
        else:
            table.add_row(family.name, seen.refusal)
    Console().print(table)


def main() -> None:
    """Measure every family, and print the table or the README's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print the README's table alone")
    parser.add_argument("--quick", action="store_true", help="as the other benchmarks; no effect")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there too")
    options = parser.parse_args()
    verdicts = {family: measure(family) for family in FAMILIES}
    if options.markdown:
        print(markdown(verdicts))
    else:
        show(verdicts)
    if options.json:
        written = [{"family": family.name, **asdict(seen)} for family, seen in verdicts.items()]
        options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
