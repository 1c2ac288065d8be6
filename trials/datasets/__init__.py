"""Pairs to judge, in the formats people have them in, all read into `Item`.

load  finds the format out by the fields of the first record, and refuses a broken record before
      anything runs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from server.errors import PlanError
from trials.datasets import alpaca_eval, embedded, mt_bench
from trials.datasets.item import TIE, Item
from trials.datasets.own import REQUESTS, TABLE
from trials.datasets.pairs import JUDGEBENCH, LLMBAR, REWARDBENCH
from trials.datasets.rows import Row, read, shown
from trials.datasets.schema import Schema

__all__ = ["FORMATS", "TIE", "Item", "load"]

SCHEMAS = (
    LLMBAR,
    JUDGEBENCH,
    REWARDBENCH,
    alpaca_eval.ANNOTATIONS,
    mt_bench.VOTES,
    REQUESTS,
    TABLE,  # the least particular, so the last
)
FORMATS = ("auto", *(schema.name for schema in SCHEMAS))
POCKET = "pocket"


def load(data: Sequence[str], schema: str = "auto", seed: int = 0) -> list[Item]:
    """Read a data set.

    data    `pocket`, `pocket:COUNT`, a file, a folder (LLMBar's tree, FastChat's), or the files
            that belong together (two models' AlpacaEval outputs; MT-Bench's questions and answers)
    schema  one of FORMATS; auto = found out
    seed    of the coin that places answers where the better one always came first
    raises  PlanError  one sentence, with the line of the first record that is broken
    """
    if schema not in FORMATS:
        raise PlanError(f"format must be one of {', '.join(FORMATS)}, got {schema!r}; name one")
    if len(data) == 1 and data[0].partition(":")[0] == POCKET:
        return embedded.contests(_count(data[0]), seed)
    paths = [Path(name) for name in data]
    if len(paths) == 1 and paths[0].is_dir():
        items = _folder(paths[0], seed)
    else:
        items = _files({path: read(path) for path in paths}, schema, seed)
    _check_ids(items)
    return items


def _count(name: str) -> int:
    _, _, count = name.partition(":")
    if count and not (count.isdecimal() and 0 < int(count) <= 10**6):
        raise PlanError(
            f"{POCKET} must be followed by a count of 1 to a million, got {count!r}; "
            f"write {POCKET}:{embedded.COUNT}"
        )
    return int(count or embedded.COUNT)


def _folder(folder: Path, seed: int) -> list[Item]:
    """Read LLMBar's tree of dataset.json, or FastChat's folder of a benchmark."""
    trees = sorted(folder.rglob("dataset.json"))
    if trees:
        return [item for path in trees for item in _subset(path, folder, seed)]
    if (folder / "question.jsonl").is_file():
        files = [folder / "question.jsonl", *sorted(folder.glob("*_answer/*.jsonl"))]
        files += sorted(folder.glob("*judgment*/*.jsonl")) + sorted(folder.glob("*vote*.jsonl"))
        return _fastchat({path: read(path) for path in files})
    raise PlanError(
        f"data must be a folder with dataset.json files or a question.jsonl, got {folder}; "
        "name the file of pairs itself"
    )


def _subset(path: Path, folder: Path, seed: int) -> list[Item]:
    """Read one dataset.json; its folder names the subset and begins its items' ids."""
    subset = path.parent.relative_to(folder).as_posix()
    items = LLMBAR.items(read(path), seed)
    if subset == ".":
        return items
    return [
        replace(item, id=f"{subset}/{item.id}", about={**item.about, "subset": subset})
        for item in items
    ]


def _files(rows: dict[Path, list[Row]], name: str, seed: int) -> list[Item]:
    first = [found[0].fields.keys() for found in rows.values()]
    if len(rows) == 2 and all(fields >= alpaca_eval.OUTPUTS for fields in first):
        return alpaca_eval.outputs(*rows.values())
    if any(fields >= mt_bench.QUESTIONS for fields in first):
        return _fastchat(rows)
    if len(rows) > 1:
        raise PlanError(
            f"data must be one file, or files that belong together, got {len(rows)} that do not; "
            "give two models' AlpacaEval outputs, or MT-Bench's questions and answers"
        )
    [found] = rows.values()
    return _schema(found[0], name).items(found, seed)


def _schema(row: Row, name: str) -> Schema:
    """Return the schema asked for, or the first that the record fits."""
    fits = [schema for schema in SCHEMAS if schema.fits(row.fields)]
    if name == "auto" and fits:
        return fits[0]
    for schema in SCHEMAS:
        if schema.name == name:
            return schema
    known = "; ".join(f"{schema.name}: {', '.join(sorted(schema.fields))}" for schema in SCHEMAS)
    raise PlanError(
        f"{row.where} must have the fields of a known format ({known}), got "
        f"{shown(list(row.fields))}; name the format with --format or rename the fields"
    )


def _fastchat(rows: dict[Path, list[Row]]) -> list[Item]:
    """Sort FastChat's files by what is in them, and join them."""
    questions: list[Row] = []
    references: list[Row] = []
    votes: list[Row] = []
    answers: dict[str, list[Row]] = {}
    for path, found in rows.items():
        fields = found[0].fields.keys()
        if fields >= mt_bench.QUESTIONS:
            questions += found
        elif fields >= mt_bench.ANSWERS and path.parent.name.startswith("reference"):
            references += found
        elif fields >= mt_bench.ANSWERS:
            answers[path.name.partition(".jsonl")[0]] = found
        elif {"winner", "g1_winner"} & fields:
            votes += found
    return mt_bench.joined(questions, answers, references, votes)


def _check_ids(items: Sequence[Item]) -> None:
    """Refuse two items of one id: the record of a run could not tell them apart."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise PlanError(f"ids must differ, got {item.id[:200]!r} twice; rename one")
        seen.add(item.id)
