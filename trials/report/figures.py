"""The figures of a trial, from its record.

Two kinds of figures stand side by side. Those of the *choices* are about the calls: which slot was
taken in either order. Those of the *verdicts* are about what the caller gets: a winner, or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import fsum
from typing import Any

from portia.decisions import Answer, DecisionCard
from portia.intervals import Rate, resample
from portia.metrics import Choice, Item, Label, ReportCard
from server.judge.letters import TIE
from trials.trial import BOTH, in_both_orders

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one way to judge on one data set.

    items       judged, or found impossible to judge
    impossible  of them, those with an error instead of a verdict; error: the first such
    missing     items that the engine failed at
    failure     the engine's last one, if it failed
    statuses    verdicts by status; rungs: by the rung that settled them
    decided     share of verdicts that name a winner
    right       share of the verdicts on labelled items that name a winner, and the right one
    calls       mean per verdict; so tokens (read and written) and seconds
    card        of the choices; None where not every pair was asked in both orders
    decisions   of whom the replies prefer; None where no reply on a labelled item says so
    tied        share of the calls that said T; None without a call that was asked for a label
    points      of the labelled items by key: per reply 2 = the right one is preferred, 1 = nobody
    reason      why the trial could not run, if it could not
    """

    name: str
    stages: Sequence[Mapping[str, Any]]
    items: int = 0
    impossible: int = 0
    error: str | None = None
    missing: int = 0
    failure: str | None = None
    statuses: Mapping[str, int] = field(default_factory=dict)
    rungs: Mapping[str, int] = field(default_factory=dict)
    decided: Rate | None = None
    right: Rate | None = None
    calls: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    card: ReportCard | None = None
    decisions: DecisionCard | None = None
    tied: float | None = None
    points: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reason: str | None = None

    @classmethod
    def of(
        cls, name: str, stages: Sequence[Mapping[str, Any]], records: Sequence[Record]
    ) -> Report:
        """Return the figures of a record."""
        judged = [record for record in records if "error" not in record]
        errors = [record["error"]["message"] for record in records if "error" in record]
        counts = [_counts(record) for record in judged]
        decided, right, labelled, one = resample(counts, 4).T
        pairs = [item(record) for record in judged]
        whole = [pair for pair in pairs if pair is not None]
        answered = {record["key"]: answers(record) for record in judged if answers(record)}
        return cls(
            name=name,
            stages=stages,
            items=len(records),
            impossible=len(errors),
            error=next(iter(errors), None),
            statuses=dict(Counter(record["status"] for record in judged).most_common()),
            rungs=dict(Counter(record["rung"] or "no rung" for record in judged).most_common()),
            decided=Rate.of(decided, one),
            right=Rate.of(right, labelled),
            calls=_mean([_calls(record) for record in judged]),
            tokens=_mean([record["usage"]["total_tokens"] for record in judged]),
            seconds=_mean([record["seconds"] for record in judged]),
            card=ReportCard.of(whole) if whole and len(whole) == len(pairs) else None,
            decisions=DecisionCard.of([*answered.values()]) if answered else None,
            tied=_tied(judged),
            points={
                key: tuple(int(2 * answer.points) for answer in each)
                for key, each in answered.items()
            },
        )

    def wire(self) -> dict[str, Any]:
        """Return what JSON can carry; the points are in the records."""
        return {name: value for name, value in asdict(self).items() if name != "points"}


def answers(record: Record) -> tuple[Answer, ...]:
    """Return whom the replies on a labelled item prefer, in the data's order and exchanged.

    Nothing where nobody is labelled the better, or of a record older than preferences.
    """
    if record["label"] in (None, "tie"):
        return ()
    replies = [record, *([record["exchanged"]] if "exchanged" in record else [])]
    return tuple(
        Answer(
            right=None if reply["preferred"] is None else reply["preferred"] == record["label"],
            probability=reply["probability"],
            calls=_calls(reply),
            tokens=reply["usage"]["total_tokens"],
        )
        for reply in replies
        if "preferred" in reply
    )


def _tied(judged: Sequence[Record]) -> float | None:
    """Return the share of calls that said T, whatever it was then taken for."""
    replies = [each for record in judged for each in (record, record.get("exchanged")) if each]
    said = [call["label"] == TIE for reply in replies for call in reply["calls"]]
    return sum(said) / len(said) if said else None


def _counts(record: Record) -> tuple[int, ...]:
    """Return whether the verdict names a winner, a right one, one on a labelled item; and 1."""
    winner, label = record["winner"], record["label"]
    decided = winner is not None
    labelled = decided and label not in (None, "tie")
    return decided, labelled and winner == label, labelled, 1


def _calls(record: Record) -> int:
    """Return how often the model was asked, a sample being an answer of its own."""
    asked = [call for call in record["calls"] if not call.get("repeated")]
    return sum(len(call.get("samples") or [None]) for call in asked)


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None


def item(record: Record) -> Item | None:
    """Return the choices on a pair in both orders, or None if it was not asked so.

    A verdict that was itself asked for in both orders shows them in its calls, the last ones being
    those of the rung it stopped at. Otherwise the two verdicts on either order are the choices.
    """
    ids = record["candidates"]
    if len(ids) != 2:
        return None
    if in_both_orders(record):
        said = {tuple(call["indices"]): call["verdict"] for call in record["calls"]}
        first, second = (said[order] for order in sorted(BOTH))
    elif "exchanged" in record:
        first, second = (_verdict(reply) for reply in (record, record["exchanged"]))
    else:
        return None
    label: Label = 1 if record["label"] == ids[0] else 2 if record["label"] == ids[1] else None
    return Item(
        first=_slot(first, ids),
        second=_slot(second, ids[::-1]),
        label=label,
        calls=_calls(record),
        tokens=record["usage"]["total_tokens"],
        seconds=record["seconds"],
    )


def _verdict(reply: Record) -> str | None:
    """Return a winner's id, "tie" or None."""
    return "tie" if reply["status"] == "tie" else reply["winner"]


def _slot(said: str | None, ids: Sequence[str]) -> Choice:
    """Return the slot of what was chosen, where `ids` are as they were shown."""
    if said is None:
        return None
    return "C" if said == "tie" else "AB"[ids.index(said)]  # type: ignore[return-value]
