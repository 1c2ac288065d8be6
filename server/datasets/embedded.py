"""The embedded model's own judge task: `pocket`, or `pocket:200` for as many contests."""

from __future__ import annotations

from random import Random

from server.datasets.item import TIE, Item

COUNT = 1000


def contests(count: int, seed: int) -> list[Item]:
    """Draw decided contests of two answers, the right one first in half of them.

    source  pocket.data.contest, the world the embedded model was trained in
    """
    from pocket.data import contest

    random = Random(seed)
    items = []
    for place in range(count):
        drawn = contest(random, candidates=2, first_wins=0.5, tie=0.0)
        items.append(
            Item(
                id=str(place),
                question=drawn.question,
                candidates=drawn.candidates,
                ids=("first", "second"),
                label=TIE if drawn.winner is None else drawn.winner,
                reference=drawn.reference or None,
            )
        )
    return items
