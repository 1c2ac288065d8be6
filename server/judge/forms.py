"""What is asked of a judge, and how its answer is read (spec portia-and-judge 1, forms).

An answer that is not exactly what was asked for is not guessed at: it cannot be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from operator import mul
from types import MappingProxyType
from typing import Protocol

from llguidance import LLMatcher

from portia.verdict import TIE
from server.judge import letters as lettering
from server.judge.ballot import FormName

LEAST = math.log(5e-324)  # a probability of zero has no logarithm on the wire: the least float's
SCORES = (1, 10)
# What each point of the ordinal scale says of the first's lead, in points: with a middle for a tie,
# and without. A step means the same on both, so leads can be compared.
LEADS: Mapping[bool, Mapping[str, int]] = MappingProxyType(
    {
        True: MappingProxyType({"1": 2, "2": 1, "3": 0, "4": -1, "5": -2}),
        False: MappingProxyType({"1": 2, "2": 1, "3": -1, "4": -2}),
    }
)

Letters = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """What one answer says.

    verdict  as it was said: a letter, a point, scores; None if it could not be read
    choice   the slot that it prefers, TIE, or None
    values   by slot, in the form's unit, or None
    """

    verdict: str | None = None
    choice: int | None = None
    values: tuple[float, ...] | None = None


class Form(Protocol):
    """One way to compare; `ties` says whether the judge may answer that none is best.

    unit    of the values: nats or points
    most    candidates at most, or None
    forced  True = what is asked depends on `ties`
    """

    unit: str
    most: int | None
    forced: bool

    def task(self, letters: Letters, ties: bool) -> tuple[str, str, str]:
        """Return what to decide, how to answer, and what stands for a verdict after evidence."""
        ...

    def labels(self, letters: Letters, ties: bool) -> tuple[str, ...]:
        """Return what an answer of one token may be; empty = it takes more than one."""
        ...

    def tokens(self, letters: Letters) -> int:
        """Return how many tokens an answer needs at most."""
        ...

    def grammar(self, letters: Letters) -> str | None:
        """Return what an answer must follow where the labels do not tell, as llguidance has it."""
        ...

    def weigh(self, logprobs: Mapping[str, float], letters: Letters, least_mass: float) -> Said:
        """Read the probabilities of the labels; below `least_mass` in sum there is no verdict."""
        ...

    def parse(self, text: str, letters: Letters, ties: bool) -> Said:
        """Read a text, which must be an answer and nothing else."""
        ...


class Relation:
    """The best candidate's label, or T for a tie; values are natural-log probabilities."""

    unit = "nats"
    most: int | None = None
    forced = True

    def task(self, letters: Letters, ties: bool) -> tuple[str, str, str]:
        """Return the question and the two ways to answer it."""
        tied = f", or {lettering.TIE} for a tie" if ties else ""
        noun = lettering.noun(letters)
        if noun == "ordinal":  # which are words that stand in texts as well
            noun = f"ordinal, {', '.join(letters[:-1])} or {letters[-1]}"
        return (
            "Which answer is best?",
            f"Reply with its {noun}{tied}.",
            f"X is the {noun} of the best answer{tied}",
        )

    def labels(self, letters: Letters, ties: bool) -> tuple[str, ...]:
        """Return the letters, then the tie's."""
        return (*letters, lettering.TIE) if ties else letters

    def tokens(self, letters: Letters) -> int:
        """Return 1."""
        return 1

    def grammar(self, letters: Letters) -> None:
        """Return None: the labels' probabilities are read."""

    def weigh(self, logprobs: Mapping[str, float], letters: Letters, least_mass: float) -> Said:
        """Take the most probable label; two equal ones at the top are a tie."""
        values = tuple(logprobs[letter] for letter in letters)
        return self._said(greatest(logprobs, least_mass), letters, values)

    def parse(self, text: str, letters: Letters, ties: bool) -> Said:
        """Read `A`, `(A)`, `[[A]]`, `A]]` behind brackets that were opened for it, or `A.`."""
        pattern = r"(?:(?:\[\[)?(\w+)\]\]|\((\w+)\)|(\w+))[.,:;!)]?"
        match = re.fullmatch(pattern, text.strip())
        said = next((group for group in match.groups() if group), "") if match else ""
        named = self.labels(letters, ties)
        label = next((each for each in (said, said.lower()) if each in named), None)
        return self._said(label, letters, None)

    def _said(self, label: str | None, letters: Letters, values: tuple[float, ...] | None) -> Said:
        if label is None:
            return Said(values=values)
        return Said(label, TIE if label == lettering.TIE else letters.index(label), values)


class Score:
    """A number from 1 to 10 for each candidate; values are these points.

    Equal scores are nobody's best whether ties are asked for or not: numbers name none.
    """

    unit = "points"
    most: int | None = None
    forced = False

    def task(self, letters: Letters, ties: bool) -> tuple[str, str, str]:
        """Return the question and the two ways to answer it."""
        order = f"in the order {', '.join(letters)}, separated by spaces"
        return (
            f"Give every answer a score from {SCORES[0]} (worst) to {SCORES[1]} (best).",
            f"Reply with the scores alone, {order}.",
            f"X are the scores, {order}",
        )

    def labels(self, letters: Letters, ties: bool) -> tuple[str, ...]:
        """Return nothing: several numbers are several tokens."""
        return ()

    def tokens(self, letters: Letters) -> int:
        """Return enough for digits and spaces that are tokens of their own."""
        return 4 * len(letters)

    def grammar(self, letters: Letters) -> str:
        """Return one whole number per candidate."""
        number = "|".join(map(str, reversed(range(SCORES[0], SCORES[1] + 1))))
        return str(LLMatcher.grammar_from_regex(" ".join([f"({number})"] * len(letters))))

    def weigh(self, logprobs: Mapping[str, float], letters: Letters, least_mass: float) -> Said:
        """Raise: there are no labels to weigh."""
        raise NotImplementedError("scores are read from the text")

    def parse(self, text: str, letters: Letters, ties: bool) -> Said:
        """Read `8 6.5`, `8, 6` or `8/10 6/10`, also in brackets, in the order of the slots."""
        bare = re.sub(r"^\[\[(.*)\]\]$", r"\1", text.strip().removesuffix("."), flags=re.DOTALL)
        found = re.split(r"\s*,\s*|\s+", bare.strip())
        numbers = [re.fullmatch(r"(\d{1,2}(?:\.\d{1,4})?)(?:/10)?", each) for each in found]
        scores = tuple(float(number[1]) for number in numbers if number)
        inside = all(SCORES[0] <= score <= SCORES[1] for score in scores)
        if len(scores) != len(found) or len(scores) != len(letters) or not inside:
            return Said()
        best = [slot for slot, score in enumerate(scores) if score == max(scores)]
        said = " ".join(f"{score:g}" for score in scores)
        return Said(said, best[0] if len(best) == 1 else TIE, scores)


class Likert:
    """One point on a scale between two candidates; a value is half the lead, in points.

    The lead of the first is +2 much better, +1 better, 0 a tie, -1 and -2 likewise. Exchanging the
    candidates mirrors the scale. From probabilities it is the expected lead. Without ties the scale
    has no middle: to leave it there and call it undecided would bring back what models say too
    gladly.
    """

    unit = "points"
    most: int | None = 2
    forced = True

    def task(self, letters: Letters, ties: bool) -> tuple[str, str, str]:
        """Return the scale and the two ways to answer."""
        first, second = letters
        meaning = {
            2: f"{first} is much better",
            1: f"{first} is better",
            0: "both are equally good",
            -1: f"{second} is better",
            -2: f"{second} is much better",
        }
        scale = ", ".join(f"{point} = {meaning[lead]}" for point, lead in LEADS[ties].items())
        return f"Which answer is better? {scale}.", "Reply with the number.", "X is the number"

    def labels(self, letters: Letters, ties: bool) -> tuple[str, ...]:
        """Return the points of the scale."""
        return tuple(LEADS[ties])

    def tokens(self, letters: Letters) -> int:
        """Return 1."""
        return 1

    def grammar(self, letters: Letters) -> None:
        """Return None: the labels' probabilities are read."""

    def weigh(self, logprobs: Mapping[str, float], letters: Letters, least_mass: float) -> Said:
        """Choose the more probable side; the verdict is the most probable point."""
        leads = LEADS[len(logprobs) == len(LEADS[True])]
        most = max(logprobs.values())
        chances = {point: math.exp(logprobs[point] - most) for point in leads}
        lead = fsum(map(mul, chances.values(), leads.values())) / fsum(chances.values())
        values = (lead / 2, -lead / 2)
        if mass(logprobs) < least_mass:
            return Said(values=values)
        sides = [
            fsum(chance for point, chance in chances.items() if _side(leads[point]) == side)
            for side in (0, 1, TIE)
        ]
        best = [side for side, chance in enumerate(sides) if chance == max(sides)]
        nearest_middle = sorted(leads, key=lambda point: abs(leads[point]))
        point = max(nearest_middle, key=logprobs.__getitem__)
        return Said(point, best[0] if len(best) == 1 and best[0] < 2 else TIE, values)

    def parse(self, text: str, letters: Letters, ties: bool) -> Said:
        """Read `4`, `[[4]]` or `4.`."""
        match = re.fullmatch(r"(?:\[\[([1-5])\]\]|([1-5]))\.?", text.strip())
        point = match and (match[1] or match[2])
        if point is None or point not in LEADS[ties]:
            return Said()
        lead = LEADS[ties][point]
        return Said(point, _side(lead), (lead / 2, -lead / 2))


def _side(lead: float) -> int:
    """Return the slot that a lead of the first speaks for, or TIE."""
    return TIE if lead == 0 else 0 if lead > 0 else 1


FORMS: Mapping[FormName, Form] = MappingProxyType(
    {"relation": Relation(), "score": Score(), "likert": Likert()}
)


def greatest(logprobs: Mapping[str, float], least_mass: float) -> str | None:
    """Return the most probable label, the tie if two are, None below a mass of `least_mass`."""
    if mass(logprobs) < least_mass:
        return None
    most = max(logprobs.values())
    best = [label for label, logprob in logprobs.items() if logprob == most]
    return best[0] if len(best) == 1 else lettering.TIE


def concluded(form: Form, text: str, letters: Letters, ties: bool) -> Said:
    """Read a text that explains first: only its last line counts, `Verdict: [[X]]` and no more.

    What the text quotes before, from a candidate or from the task, cannot be taken for a verdict.
    """
    lines = text.rstrip().splitlines() or [""]
    match = re.fullmatch(r"\**(?:verdict:\**\s*)?\[\[(.{1,80})\]\]\**\.?", lines[-1].strip(), re.I)
    return Said() if match is None else form.parse(match[1], letters, ties)


def majority(said: Sequence[Said]) -> Said:
    """Return what most of the readable answers chose: equally many for two is a tie.

    returns  the values are the means, where the answers have values; nothing if none can be read
    """
    readable = [each for each in said if each.choice is not None]
    if not readable:
        return Said()
    choices = [each.choice for each in readable]
    most = max(map(choices.count, choices))
    best = {choice for choice in choices if choices.count(choice) == most}
    choice = best.pop() if len(best) == 1 else TIE
    verdict = next((each.verdict for each in readable if each.choice == choice), None)
    by_slot = zip(*(each.values for each in readable if each.values is not None), strict=True)
    values = tuple(fsum(slot) / len(slot) for slot in by_slot)
    return Said(verdict, choice, values or None)


def mass(logprobs: Mapping[str, float]) -> float:
    """Return the summed probability of labels."""
    return fsum(math.exp(logprob) for logprob in logprobs.values())
