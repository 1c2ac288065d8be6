"""The nouns of a judge: what it is asked, and what it said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from portia.verdict import Method
from server.chunk import Usage
from server.judge.calibration import Calibration
from server.prompt import ChatAbility

FormName = Literal["relation", "score", "likert"]
Lettering = Literal["fixed", "random", "numbers", "ordinals", "brackets"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer before the judge; `index` is that in the caller's list."""

    id: str
    text: str
    index: int


@dataclass(frozen=True, slots=True)
class Statement:
    """What a judge said before, of the same candidates.

    order    the candidates' indices by slot, as it was shown them
    letters  by slot: under which it knew them
    """

    text: str
    order: tuple[int, ...]
    letters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a judge is asked: which of the candidates, shown in `order`, answers best.

    order           indices into `candidates` by slot, slot j carries letter j; None = no stage has
                    fixed an order, the caller's is shown
    template        name of a built-in template, or an inline one with named placeholders; auto =
                    the one that suits the model
    chat            what the model's chats may have
    as_documents    True = the candidates are an unordered set (a reading stage sees to that)
    min_label_mass  summed probability of the labels below which an answer counts as unparsed
    lettering       fixed = A, B, ... by slot; random = drawn anew for every order, from the seed;
                    numbers = 1, 2, ...; ordinals = first, second, ...; brackets = [[A]], [[B]], ...
    ranking         how several calls make one ranking; None = kemeny, or borda where it is too long
    evidence        True = the model explains first and ends with its verdict
    parts           each candidate cut into as many parts, shown in turn; () = whole
    debate          statements shown besides the candidates
    ties            True = the judge may say that none is best
    taught          True = the model was trained on the template: where it names ties it still does,
                    allowed or not, since without them it is a prompt that the model never saw
    tie_margin      a debiased margin up to this is a tie, in the form's unit; None = calls say so
    """

    question: str
    candidates: tuple[Candidate, ...]
    order: tuple[int, ...] | None = None
    template: str = "plain"
    reference: str | None = None
    criteria: str | None = None
    form: FormName = "relation"
    as_documents: bool = False
    min_label_mass: float = 0.01
    lettering: Lettering = "fixed"
    seed: int = 0
    ranking: Method | None = None
    evidence: bool = False
    parts: tuple[tuple[str, ...], ...] = ()
    debate: tuple[Statement, ...] = ()
    ties: bool = True
    taught: bool = False
    tie_margin: float | None = None
    chat: frozenset[ChatAbility] = frozenset({"system", "continued"})

    @property
    def slots(self) -> tuple[int, ...]:
        """Return the candidates' indices by slot: as a stage fixed them, else the caller's."""
        return self.order or tuple(range(len(self.candidates)))

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the candidates' texts by their indices."""
        return tuple(candidate.text for candidate in self.candidates)

    @property
    def names_ties(self) -> bool:
        """Return whether the prompt says that none may be best."""
        return self.ties or (self.taught and self.form == "relation" and not self.evidence)

    def canonical(self) -> tuple[int, ...]:
        """Return the candidates' indices in an order that depends on their content alone."""
        key = [(candidate.text, candidate.id) for candidate in self.candidates]
        return tuple(sorted(range(len(key)), key=key.__getitem__))


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of several to the same prompt; `verdict` is None if it could not be read."""

    verdict: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a judge: the ballot shown, and what the model made of it.

    labels    by slot the candidate's letter; then T for a tie, where it may be said
    logprobs  natural-log probability of what may be said, or None where it was not asked for
    verdict   what was said: a letter, a point, scores; None if the answer could not be read
    choice    the slot that this prefers, TIE, or None
    values    by slot, in the form's unit, or None
    samples   the single answers, where there are several
    repeated  True = this prompt was asked before in this request: its answer is used again
    tied      whether it is a tie by what the model says of identical answers; None = not measured
    """

    ballot: Ballot
    labels: tuple[str, ...]
    logprobs: Mapping[str, float] | None
    verdict: str | None
    choice: int | None
    values: tuple[float, ...] | None
    text: str
    usage: Usage
    stages: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    repeated: bool = False
    tied: bool | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """Return the candidates' indices by slot."""
        return self.ballot.slots


@dataclass(frozen=True, slots=True)
class Case:
    """A judge's part of a job.

    fingerprint  stands for the model and this software
    calibration  the store of what is known of the judge, or None
    history      the calls before, on the rung below
    stages       names of the plan's stages, for the record of a call
    """

    ballot: Ballot
    fingerprint: str = ""
    calibration: Calibration | None = None
    history: tuple[Call, ...] = ()
    stages: tuple[str, ...] = ()
