"""What a judge is worth on a data set (spec portia-and-judge 4, exactly).

Items are pairs of candidates, 1 and 2. Order 1 shows candidate 1 in slot A, order 2 candidate 2.
Exchanging the candidates of every item exchanges the accuracies of the two orders and changes no
other figure; nor does the order of the items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import fsum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from portia.intervals import DRAWS, Integers, Rate, resample
from portia.verdict import TIE, Vote

Choice = Literal["A", "B", "C"] | None  # a slot; C = a tie; None = could not be read
Label = Literal[1, 2] | None  # the better candidate; None = unknown
Kind = Literal["primacy", "recency", "consistent", "unparsed"]

CONSISTENT = frozenset({("A", "B"), ("B", "A"), ("C", "C")})
EXCHANGED: Mapping[Choice, Choice] = MappingProxyType({"A": "B", "B": "A", "C": "C", None: None})


@dataclass(frozen=True, slots=True)
class Item:
    """The choices on one pair.

    first    slot chosen in order 1
    second   slot chosen in order 2
    label    the better candidate
    repeats  choices of the same prompt asked several times, for the repetition stability
    calls    of the model; with tokens (read and written) and seconds for the whole item
    """

    first: Choice
    second: Choice
    label: Label = None
    repeats: tuple[Choice, ...] = ()
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def kind(self) -> Kind:
        """AA, AC, CA = primacy; BB, BC, CB = recency; AB, BA, CC = consistent."""
        choices = (self.first, self.second)
        if None in choices:
            return "unparsed"
        if choices in CONSISTENT:
            return "consistent"
        return "primacy" if "A" in choices else "recency"

    def right(self, order: Literal[1, 2]) -> bool:
        """Say whether an order chose the labelled candidate."""
        if self.label is None:
            return False
        choice, slots = (self.first, "AB") if order == 1 else (self.second, "BA")
        return choice == slots[self.label - 1]


@dataclass(frozen=True, slots=True)
class ReportCard:
    """All figures of one judge on one data set.

    primacy, recency,         numbers of parsed items, by kind
    consistent
    unparsed                  share of items in which a choice could not be read
    position_consistency      consistent / (primacy + recency + consistent)
    preference_fairness       -1 = always the first slot, +1 = always the second
    accuracy_first, _second   right in order 1, 2 / judged (labelled, and parsed in both orders)
    accuracy                  mean of both
    both_right                right in both orders / judged
    accuracy_when_consistent  right / (consistent and labelled); a tie is wrong
    coverage                  share of items in which both orders chose the same candidate
    llmbar_accuracy           LLMBar's Acc: as accuracy, but / labelled; an unparsed choice is wrong
    llmbar_agreement          LLMBar's Agr: share of items in which both orders say the same
    repetition_stability      see `stability`
    calls, tokens, seconds    means per item
    """

    items: int
    primacy: int
    recency: int
    consistent: int
    unparsed: Rate
    position_consistency: Rate
    preference_fairness: Rate
    accuracy_first: Rate
    accuracy_second: Rate
    accuracy: Rate
    both_right: Rate
    accuracy_when_consistent: Rate
    coverage: Rate
    llmbar_accuracy: Rate
    llmbar_agreement: Rate
    repetition_stability: float | None
    calls: float
    tokens: float
    seconds: float

    @classmethod
    def of(cls, items: Sequence[Item], draws: int = DRAWS, seed: int = 0) -> ReportCard:
        """Return the report card of a data set.

        draws  resampled data sets behind each bootstrap interval
        """
        counted = Counter(item.kind for item in items)
        count = max(1, len(items))
        return cls(
            items=len(items),
            primacy=counted["primacy"],
            recency=counted["recency"],
            consistent=counted["consistent"],
            accuracy_first=_one_order(1, items, draws, seed),
            accuracy_second=_one_order(2, items, draws, seed),
            **_both_orders(items, draws, seed),
            repetition_stability=stability([item.repeats for item in items]),
            calls=sum(item.calls for item in items) / count,
            tokens=sum(item.tokens for item in items) / count,
            seconds=fsum(item.seconds for item in items) / count,
        )

    def rows(self) -> list[tuple[str, Rate]]:
        """Return the rates by name, in the order of the fields."""
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in values if isinstance(value, Rate)]

    def wire(self) -> dict[str, Any]:
        """Return what JSON can carry."""
        return asdict(self)


def choices(votes: Sequence[Vote], *, order_free: bool = False) -> tuple[Choice, Choice]:
    """Return the slots that the votes on two candidates chose, in order 1 and in order 2.

    votes       one per order, in any sequence; candidate indices 0 and 1 are candidates 1 and 2
    order_free  True = one vote is the same in both orders (PINE)
    raises      ValueError  if an order has no vote, or several
    """
    found: dict[tuple[int, ...], Choice] = {vote.by_slot: _slot(vote) for vote in votes}
    if order_free and len(votes) == 1:
        [(order, choice)] = list(found.items())
        found[order[::-1]] = EXCHANGED[choice]
    if len(votes) > 2 or found.keys() != {(0, 1), (1, 0)}:
        raise ValueError(
            f"votes must be one per order, got {[vote.by_slot for vote in votes]}; "
            "ask once with either candidate first"
        )
    return found[0, 1], found[1, 0]


def stability(repeats: Sequence[Sequence[Choice]]) -> float | None:
    """Return the mean over items of (count of the most frequent choice / repeats).

    repeats  choices of the same prompt, per item; items asked less than twice do not count, and a
             choice that could not be read agrees with none
    """
    shares = [
        max(Counter(choice for choice in asked if choice).values(), default=0) / len(asked)
        for asked in repeats
        if len(asked) > 1
    ]
    return fsum(shares) / len(shares) if shares else None


class _Counts(NamedTuple):
    """Numbers of items, [draws], or of one item: what the rates of both orders together need.

    judged         labelled, and parsed in both orders
    right          choices that were right, 0 to 2 per item; judged_right: of judged items
    settled        consistent and labelled
    """

    primacy: Integers
    recency: Integers
    consistent: Integers
    unparsed: Integers
    decided: Integers
    labelled: Integers
    right: Integers
    judged: Integers
    judged_right: Integers
    both_right: Integers
    settled: Integers


def _counts(item: Item) -> tuple[int, ...]:
    """Return what an item adds to each of `_Counts`; the same if its candidates are exchanged."""
    kind, labelled = item.kind, item.label is not None
    judged = labelled and kind != "unparsed"
    right = item.right(1) + item.right(2)
    return (
        kind == "primacy",
        kind == "recency",
        kind == "consistent",
        kind == "unparsed",
        kind == "consistent" and item.first != "C",
        labelled,
        right,
        judged,
        right * judged,
        right == 2,
        kind == "consistent" and labelled,
    )


def _both_orders(items: Sequence[Item], draws: int, seed: int) -> dict[str, Rate]:
    """Return the rates that exchanging the candidates cannot change.

    The spec's `PF = (rcn * irr - pcn * ipr) / n` with `irr = rcn / (pcn + rcn)`, `ipr` alike, is
    `(rcn^2 - pcn^2) / (pcn + rcn) / n = (rcn - pcn) / n`, which needs no flip to be defined.
    """
    sums = _Counts(
        *resample([_counts(item) for item in items], len(_Counts._fields), draws, seed).T
    )
    parsed = sums.primacy + sums.recency + sums.consistent
    everyone = parsed + sums.unparsed
    return {
        "unparsed": Rate.of(sums.unparsed, everyone),
        "position_consistency": Rate.of(sums.consistent, parsed),
        "preference_fairness": Rate.of(sums.recency - sums.primacy, parsed, share=False),
        "accuracy": Rate.of(sums.judged_right, 2 * sums.judged, share=False),
        "both_right": Rate.of(sums.both_right, sums.judged),
        "accuracy_when_consistent": Rate.of(sums.both_right, sums.settled),
        "coverage": Rate.of(sums.decided, everyone),
        "llmbar_accuracy": Rate.of(sums.right, 2 * sums.labelled, share=False),
        "llmbar_agreement": Rate.of(sums.consistent, everyone),
    }


def _one_order(order: Literal[1, 2], items: Sequence[Item], draws: int, seed: int) -> Rate:
    """Return the accuracy in one order."""
    judged = [item for item in items if item.label is not None and item.kind != "unparsed"]
    right, count = resample([(item.right(order), 1) for item in judged], 2, draws, seed).T
    return Rate.of(right, count)


def _slot(vote: Vote) -> Choice:
    if vote.choice is None:
        return None
    if vote.choice == TIE:
        return "C"
    return "A" if vote.by_slot[0] == vote.choice else "B"
