"""Our own JSON Lines, shaped as a judge request with a label, and plain CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from server.errors import PlanError
from trials.datasets.item import TIE, Item
from trials.datasets.rows import Row, shown
from trials.datasets.schema import Schema, about, labelled, rowwise

ANSWER = re.compile(r"(?:answer|response|candidate|output)[ _-]?(\w+)|([a-y])", re.IGNORECASE)


def _request(row: Row, index: int, seed: int) -> Item:
    """Read a judge request: `label` is a candidate's id, its index from 0, "tie", or null."""
    texts, ids = _candidates(row)
    meanings: dict[str | int, int] = {"tie": TIE}
    for label, name in enumerate(ids):
        meanings |= {label: label, name: label}
    return Item(
        id=row.name("id") if row.fields.get("id") is not None else str(index),
        question=row.text("question", empty=False),
        candidates=texts,
        ids=ids,
        label=labelled(row, "label", meanings),
        reference=row.optional("reference"),
        criteria=row.optional("criteria"),
        about=about(row, "subset"),
    )


def _candidates(row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the candidates' texts and ids; an id that is not given is the index from 0."""
    given = row.fields.get("candidates")
    if not isinstance(given, list) or len(given) < 2:
        raise row.fault("candidates", "be a list of two or more")
    texts, ids = [], []
    for index, value in enumerate(given):
        fields: Mapping[str, Any] = value if isinstance(value, Mapping) else {"text": value}
        one = Row(fields, f"candidates.{index} of {row.where}", row.line)
        texts.append(one.text("text"))
        ids.append(one.text("id", empty=False) if fields.get("id") is not None else str(index))
    if len(set(ids)) < len(ids) or "tie" in ids:
        raise row.fault("candidates", "have ids that differ, none of them 'tie'")
    return tuple(texts), tuple(ids)


def _table(row: Row, index: int, seed: int) -> Item:
    """Read a line of CSV: a question, a column per answer, perhaps a label.

    Answers stand in columns named a, b, ... or answer_1, response_a, candidate_x, output_2, ...;
    `label` or `winner` names a column, what distinguishes it (1, a), or says tie.
    """
    columns = _answers(row)
    meanings: dict[str | int, int] = {"tie": TIE}
    for column, (name, end) in enumerate(columns):
        meanings |= {name.lower(): column, end.lower(): column}
    label = "winner" if "winner" in row.fields else "label"
    said = {**row.fields, label: str(row.fields.get(label) or "").strip().lower()}
    return Item(
        id=row.name("id") if row.fields.get("id") else str(index),
        question=row.text("question", empty=False),
        candidates=tuple(row.text(name) for name, _ in columns),
        ids=tuple(name for name, _ in columns),
        label=labelled(Row(said, row.where, row.line), label, meanings),
        reference=row.optional("reference"),
        criteria=row.optional("criteria"),
        about=about(row, "subset"),
    )


def _answers(row: Row) -> list[tuple[str, str]]:
    """Return the columns that hold answers, each with what distinguishes its name."""
    matches = {name: ANSWER.fullmatch(name.strip()) for name in row.fields}
    columns = [(name, match[1] or match[2]) for name, match in matches.items() if match]
    if len(columns) < 2:
        raise PlanError(
            f"{row.where} must have two columns of answers, got columns "
            f"{shown(list(row.fields))}; name them answer_1 and answer_2"
        )
    return columns


REQUESTS = Schema("jsonl", frozenset({"question", "candidates"}), rowwise(_request))
TABLE = Schema("csv", frozenset({"question"}), rowwise(_table))
