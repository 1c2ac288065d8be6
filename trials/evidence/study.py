"""One model's study: which questions are put to it, and what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

from trials.datasets import Item, load
from trials.evidence.pairs import judged, splittable
from trials.evidence.places import Way, measured
from trials.evidence.questions import Question, key_values, natural
from trials.evidence.remembered import Remembered
from trials.methods import METHODS
from trials.report.figures import Report

LARGE = 1_000_000_000  # parameters from which a sample stands for the whole
SETS: Mapping[str, str] = MappingProxyType(
    {
        "natural": "LLMBar/LLMBar/Natural",
        "adversarial": "LLMBar/LLMBar/Adversarial",
        "mt-bench": "LLMBar/Processed/MT-Bench",
    }
)
PARTS = ("judge", "split", "documents", "keys")
KEYS = 20  # pairs to look a key up among
IN_PARTS = ("none", "swap", "portia")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked.

    sets       of pairs
    methods    to judge them by
    pairs      of each data set, drawn from a seed; None = all
    questions  among documents
    documents  of each question, one table each
    """

    sets: tuple[str, ...] = tuple(SETS)
    methods: tuple[str, ...] = tuple(METHODS)
    pairs: int | None = None
    questions: int = 60
    documents: tuple[int, ...] = (10, 20)
    parts: tuple[str, ...] = PARTS
    seed: int = 0

    @classmethod
    def fit(cls, parameters: int, full: bool, **given: Any) -> Sizes:
        """Return what fits a model of so many parameters: a sample of what is long.

        full   all of it, however long that takes
        given  what somebody has chosen; None = not chosen
        """
        large = {"pairs": 100, "documents": (10,)} if parameters > LARGE else {"pairs": 150}
        chosen = {name: value for name, value in given.items() if value is not None}
        return cls(**{**({} if full else large), **chosen})


@dataclass(frozen=True, slots=True)
class Found:
    """What is found of one model.

    pairs      by data set
    questions  by kind of question
    """

    pairs: dict[str, list[Report]] = field(default_factory=dict)
    questions: dict[str, list[Way]] = field(default_factory=dict)


async def study(engine: Remembered, data: Path, sizes: Sizes) -> Found:
    """Ask a model all that the sizes say (PlanError for data that are not there)."""
    found = Found()
    sets = {name: drawn(load([str(data / SETS[name])]), sizes) for name in sizes.sets}
    if "judge" in sizes.parts:
        methods = {name: METHODS[name] for name in sizes.methods}
        for name, items in sets.items():
            found.pairs[SETS[name]] = await judged(items, methods, engine)
    if "split" in sizes.parts:
        items = splittable([item for items in sets.values() for item in items])
        methods = {name: METHODS[name] for name in IN_PARTS}
        found.pairs["three units or more on both sides"] = await judged(items, methods, engine)
    for name, questions in _questions(data, sizes).items():
        found.questions[name] = await measured(questions, engine)
    return found


def drawn(items: Sequence[Item], sizes: Sizes) -> list[Item]:
    """Return a seeded sample of some items, in their own order."""
    if sizes.pairs is None or sizes.pairs >= len(items):
        return list(items)
    kept = sorted(Random(sizes.seed).sample(range(len(items)), sizes.pairs))
    return [items[index] for index in kept]


def _questions(data: Path, sizes: Sizes) -> dict[str, list[Question]]:
    folder = data / "lost-in-the-middle"
    found: dict[str, list[Question]] = {}
    if "documents" in sizes.parts:
        for count in sizes.documents:
            name = f"questions among {count} passages"
            found[name] = natural(folder, sizes.questions, count, sizes.seed)
        count = sizes.documents[0]
        name = f"questions among the {count} nearest passages"
        found[name] = natural(folder, sizes.questions, count, sizes.seed, near=True)
    if "keys" in sizes.parts:
        name = f"keys among {KEYS} pairs"
        found[name] = key_values(folder, sizes.questions, KEYS, sizes.seed)
    return found
