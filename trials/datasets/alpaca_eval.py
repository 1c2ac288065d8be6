"""AlpacaEval: a judge's annotations, or two files of model outputs to compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from server.errors import PlanError
from trials.datasets.item import TIE, Item
from trials.datasets.rows import Row
from trials.datasets.schema import Schema, about, rowwise

OUTPUTS = frozenset({"instruction", "output"})


def _annotation(row: Row, index: int, seed: int) -> Item:
    """Read one annotation; its label is an earlier judge's opinion, not the truth.

    source  github.com/tatsu-lab/alpaca_eval, results/*/*/annotations.json; `preference` is 1 to 2,
            1.5 or 0 a draw (src/alpaca_eval/metrics)
    """
    return Item(
        id=str(index),
        question=_question(row),
        candidates=(row.text("output_1"), row.text("output_2")),
        ids=("output_1", "output_2"),
        label=_preferred(row),
        about=about(row, "generator_1", "generator_2", "dataset", "annotator"),
    )


def _preferred(row: Row) -> int | None:
    value = row.fields.get("preference")
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value == 0 or 1 <= value <= 2):
        raise row.fault("preference", "be a number of 1 to 2, or 0 for a draw")
    return TIE if value in (0, 1.5) else int(value > 1.5)


def _question(row: Row) -> str:
    """Return the instruction, with its `input` below where it has one."""
    given = row.optional("input")
    instruction = row.text("instruction")
    return instruction if given is None else f"{instruction}\n\n{given}"


def outputs(first: Sequence[Row], second: Sequence[Row]) -> list[Item]:
    """Pair the outputs of two models on the same instructions, in the order of the first file.

    source  github.com/tatsu-lab/alpaca_eval, results/*/model_outputs.json
    raises  PlanError  if one of them has not answered an instruction
    """
    others = dict(zip(_numbered(second), second, strict=True))
    pairs = [(row, others.pop(key, None)) for key, row in zip(_numbered(first), first, strict=True)]
    alone = [row for row, other in pairs if other is None] + list(others.values())
    if alone:
        raise PlanError(
            f"instruction of {alone[0].where} must be in both files, got it in one "
            f"({len(alone)} such); give outputs on the same instructions"
        )
    return [
        _pair(str(index), row, other)
        for index, (row, other) in enumerate(pairs)
        if other is not None
    ]


def _pair(name: str, row: Row, other: Row) -> Item:
    models = (row.optional("generator") or "output_1", other.optional("generator") or "output_2")
    return Item(
        id=name,
        question=_question(row),
        candidates=(row.text("output"), other.text("output")),
        ids=models if models[0] != models[1] else ("output_1", "output_2"),
        about=about(row, "dataset"),
    )


def _numbered(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Return each row's question with how often it has come before: some are asked twice."""
    seen: Counter[str] = Counter()
    keys = []
    for row in rows:
        question = _question(row)
        keys.append((question, seen[question]))
        seen[question] += 1
    return keys


ANNOTATIONS = Schema(
    "alpaca-eval", frozenset({"instruction", "output_1", "output_2"}), rowwise(_annotation)
)
