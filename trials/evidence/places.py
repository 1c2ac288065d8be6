"""Documents: what is found under each stage, and where the right one stood for the plain model.

A stage that reads documents as a set is asked once, since no order changes its answer; the plain
model with the right document first, in the middle, and last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from portia.intervals import Rate, resample
from server.errors import PlanError
from trials.evidence.questions import Question
from trials.evidence.reading import ask
from trials.evidence.remembered import Remembered

PLACES: Mapping[str, float] = MappingProxyType({"first": 0.0, "middle": 0.5, "last": 1.0})
STAGES: Mapping[str, list[dict[str, Any]]] = MappingProxyType(
    {
        "average": [{"stage": "average"}],
        "parallel": [{"stage": "parallel"}],
        "pine": [{"stage": "pine"}],
        "rerank": [{"stage": "rerank"}],
    }
)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to read, over some questions.

    right    by question
    tokens   read and written, mean
    seconds  mean
    reason   why it could not be asked, if it could not
    """

    name: str
    right: tuple[bool, ...] = ()
    tokens: float = 0.0
    seconds: float = 0.0
    reason: str | None = None

    @property
    def accuracy(self) -> Rate:
        """Return the share that was answered right."""
        return _share([(int(right), 1) for right in self.right])


async def measured(questions: Sequence[Question], engine: Remembered) -> list[Way]:
    """Ask every question in every way: plain at three places, then under each stage."""
    ways = [
        await _way(f"plain, {name}", place, [], questions, engine) for name, place in PLACES.items()
    ]
    ways += [await _way(name, 0.0, stages, questions, engine) for name, stages in STAGES.items()]
    return ways


async def _way(
    name: str,
    place: float,
    stages: list[dict[str, Any]],
    questions: Sequence[Question],
    engine: Remembered,
) -> Way:
    """Ask every question in one way; what keeps it from running is its reason.

    place  of the right document, 0 = first and 1 = last
    """
    begun, found = engine.seconds, []
    try:
        for question in questions:
            documents = question.documents(round(place * len(question.others)))
            found.append(await ask(question, documents, stages, engine))
    except PlanError as error:
        return Way(name, reason=error.message)
    right = tuple(each.right for each in found)
    tokens = sum(each.tokens for each in found) / len(found)
    return Way(name, right, tokens, (engine.seconds - begun) / len(found))


def mean_place(ways: Sequence[Way]) -> tuple[int, ...]:
    """Return by question in how many places the plain model was right."""
    plain = [way.right for way in ways if way.name.startswith("plain")]
    return tuple(map(sum, zip(*plain, strict=True)))


def plain_mean(ways: Sequence[Way]) -> Rate:
    """Return the plain model's accuracy over all places; questions are drawn, not answers."""
    return _share([(right, len(PLACES)) for right in mean_place(ways)])


def against_plain(way: Way, ways: Sequence[Way]) -> Rate:
    """Return a stage's accuracy less the plain model's mean over places, question by question."""
    paired = zip(way.right, mean_place(ways), strict=True)
    return _share([(len(PLACES) * right - plain, len(PLACES)) for right, plain in paired])


def _share(counts: Sequence[tuple[int, int]]) -> Rate:
    above, below = resample(counts, 2).T
    return Rate.of(above, below, share=False)
