"""The embedded model's own judge task: `pocket`, or `pocket:200` for as many contests."""

from __future__ import annotations

from random import Random

from trials.datasets.item import TIE, Item

COUNT = 1000


def contests(count: int, seed: int) -> list[Item]:
    """Draw decided contests of two answers, the right one first in half of them.

    source  pocket.data.facts_contest, as `python -m pocket.evaluate` draws them
    """
    from pocket.data import HARD, facts_contest

    random = Random(seed)
    items = []
    for index in range(count):
        drawn = facts_contest(random, 2, first_wins=0.5, tie=0.0, hard=HARD)
        items.append(
            Item(
                id=str(index),
                question=drawn.question,
                candidates=drawn.candidates,
                ids=("first", "second"),
                label=TIE if drawn.winner is None else drawn.winner,
                reference=drawn.reference or None,
            )
        )
    return items
