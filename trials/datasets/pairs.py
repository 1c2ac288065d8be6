"""Data sets with a pair of answers per record: LLMBar, JudgeBench, RewardBench."""

from __future__ import annotations

from trials.datasets.item import Item, coin
from trials.datasets.rows import Row
from trials.datasets.schema import Schema, about, labelled, rowwise


def _llmbar(row: Row, index: int, seed: int) -> Item:
    """Read LLMBar: no ties, the label is the number of the better output.

    source  github.com/princeton-nlp/LLMBar, Dataset/**/dataset.json (arXiv 2310.07641)
    """
    return Item(
        id=str(index),
        question=row.text("input"),
        candidates=(row.text("output_1"), row.text("output_2")),
        ids=("output_1", "output_2"),
        label=labelled(row, "label", {"1": 0, "2": 1, 1: 0, 2: 1}),
    )


def _judgebench(row: Row, index: int, seed: int) -> Item:
    """Read JudgeBench: the label says which response is objectively right.

    source  github.com/ScalerLab/JudgeBench, README.md and data/*.jsonl (arXiv 2410.12784)
    """
    return Item(
        id=row.name("pair_id") if "pair_id" in row.fields else str(index),
        question=row.text("question"),
        candidates=(row.text("response_A"), row.text("response_B")),
        ids=("response_A", "response_B"),
        label=labelled(row, "label", {"A>B": 0, "B>A": 1}),
        about=about(row, "source", "original_id", "response_model"),
    )


def _rewardbench(row: Row, index: int, seed: int) -> Item:
    """Read RewardBench, whose better answer always comes first: a seeded coin places it.

    source  huggingface.co/datasets/allenai/reward-bench, its card (arXiv 2403.13787)
    """
    names = [name for name in ("subset", "id") if name in row.fields]
    name = row.name(*names) if "id" in names else str(index)
    second = coin(seed, name)
    ids = ("rejected", "chosen") if second else ("chosen", "rejected")
    return Item(
        id=name,
        question=row.text("prompt"),
        candidates=(row.text(ids[0]), row.text(ids[1])),
        ids=ids,
        label=ids.index("chosen"),
        about={**about(row, "subset", "chosen_model", "rejected_model"), "placed_by": "coin"},
    )


LLMBAR = Schema("llmbar", frozenset({"input", "output_1", "output_2", "label"}), rowwise(_llmbar))
JUDGEBENCH = Schema(
    "judgebench", frozenset({"question", "response_A", "response_B"}), rowwise(_judgebench)
)
REWARDBENCH = Schema(
    "rewardbench", frozenset({"prompt", "chosen", "rejected"}), rowwise(_rewardbench)
)
