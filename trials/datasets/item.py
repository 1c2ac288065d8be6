"""What every data set is read into: a question, its answers, and which of them is the better."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

TIE = -1  # a label for none of the candidates, as in portia.verdict


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to judge.

    id     unique in its data set
    ids    one per candidate, as the reply will name them
    label  index of the better candidate, TIE, or None if nobody has said
    about  what else the data set says of it (subset, models, how it was placed), for the record
    """

    id: str
    question: str
    candidates: tuple[str, ...]
    ids: tuple[str, ...]
    label: int | None = None
    reference: str | None = None
    criteria: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return a hash of the id and of all that a judge is shown, in 32 hexadecimal digits."""
        shown = [self.id, self.question, self.candidates, self.ids, self.reference, self.criteria]
        text = json.dumps(shown, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def body(self, order: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Return the judge request that asks about it.

        order  candidate indices as they are shown; None = as they are
        """
        shown = tuple(range(len(self.candidates))) if order is None else order
        asked: dict[str, Any] = {
            "question": self.question,
            "candidates": [
                {"id": self.ids[index], "text": self.candidates[index]} for index in shown
            ],
        }
        optional = {"reference": self.reference, "criteria": self.criteria}
        return asked | {name: value for name, value in optional.items() if value is not None}


def coin(seed: int, name: str) -> bool:
    """Return a fair coin's side that depends on the seed and an item's id alone.

    A data set whose better answer always comes first would flatter a judge that takes the first.
    """
    return Random(f"{seed} {name}").random() < 0.5
