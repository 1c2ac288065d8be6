"""`/v1/judge`: the body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator

from portia.rank import MOST_EXACT
from portia.verdict import Method
from server.engines.base import ModelInfo
from server.errors import PlanError
from server.job import Job
from server.judge.ballot import Ballot, Candidate, Case, FormName, Lettering
from server.judge.letters import LETTERS
from server.judge.template import AUTO, labels_of, suited
from server.pipeline import Plan
from server.protocol.common import shown
from server.protocol.generation import Generation
from server.protocol.replies import Head

MOST_CANDIDATES = len(LETTERS)
MOST_CALLS = 64
MOST_ID = 256  # characters

Ties = Literal["allow", "forbid", "auto"]


def _candidates(value: object) -> tuple[Candidate, ...]:
    """Read 2 to 25 answers; an id that is not given is the index in the list."""
    if not isinstance(value, list) or not 2 <= len(value) <= MOST_CANDIDATES:
        raise ValueError(
            f"candidates must be a list of 2 to {MOST_CANDIDATES}, got {shown(value)}; "
            "send the answers to compare"
        )
    candidates = tuple(_candidate(each, index) for index, each in enumerate(value))
    ids = [candidate.id for candidate in candidates]
    for index, name in enumerate(ids):
        if name in ids[:index]:
            raise ValueError(
                f"candidates.{index}.id must differ from the others, got {shown(name)} again; "
                "rename one, or leave all ids out"
            )
    return candidates


def _candidate(value: object, index: int) -> Candidate:
    pointer = f"candidates.{index}"
    fields = {"text": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping):
        raise ValueError(
            f'{pointer} must be a string or an object, got {shown(value)}; send {{"text": ...}}'
        )
    for name in fields:
        if name not in ("id", "text"):
            raise ValueError(f"{pointer} must have only id and text, got {name[:60]!r}; remove it")
    text, given = fields.get("text"), fields.get("id")
    if not isinstance(text, str):
        raise ValueError(f"{pointer}.text must be a string, got {shown(text)}; send the answer")
    if given is not None and not (isinstance(given, str) and 0 < len(given) <= MOST_ID):
        raise ValueError(
            f"{pointer}.id must be a string of 1 to {MOST_ID} characters, got {shown(given)}; "
            "send one, or leave it out"
        )
    return Candidate(str(index) if given is None else given, text, index)


class JudgeBody(Generation):
    """The body of `/v1/judge`; sampling fields are those of completions.

    form            relation (the best, or a tie), score (1 to 10 each), likert (a scale of 5)
    template        name of a built-in template, or an inline one with placeholders; auto (None) =
                    the one the model was trained on, else the best measured
    labels          fixed = A, B, ... by slot; random = letters drawn for every order from `seed`;
                    numbers, ordinals, brackets = 1, first, [[A]] for the first slot; None = those
                    that the template is best used with
    ties            whether the judge may answer that none is best; auto = only of two candidates,
                    and in the template that the model was trained on
    tie_margin      a debiased margin up to this is a tie, in the form's unit, and the judge is not
                    asked for ties
    min_probability of the preferred being right; below it nobody is named
    ranking         of more than two candidates: mean, kemeny or borda; None = kemeny up to 12
    stages          None = pine where the engine offers attention, else swap; [] = one plain call
    deterministic   None = true: a verdict does not depend on what else the server does
    max_calls       of the engine: a plan that needs more is refused, a ladder stops before
    min_label_mass  summed probability of the labels below which an answer counts as unparsed
    """

    prefix: ClassVar[str] = "judge"

    question: Annotated[str, Field(min_length=1)]
    candidates: Annotated[tuple[Candidate, ...], PlainValidator(_candidates)]
    reference: str | None = None
    criteria: str | None = None
    form: FormName | None = None
    template: str | None = None
    labels: Lettering | None = None
    ties: Ties | None = None
    tie_margin: float | None = Field(None, ge=0)
    min_probability: float | None = Field(None, ge=0, le=1)
    ranking: Method | None = None
    max_calls: int | None = Field(None, ge=1)
    min_label_mass: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)

    @property
    def most_calls(self) -> int:
        """Return how many calls of the engine the request allows."""
        return self.max_calls or MOST_CALLS

    def refuse(self) -> None:
        """Raise PlanError for what a judge cannot do."""
        super().refuse()
        off = {
            "stream": bool(self.stream),
            "n": self.choices > 1,
            "documents": bool(self.documents),
            "response_format": self.response_format is not None,
        }
        for name, given in off.items():
            if given:
                raise PlanError(
                    f"{name} must be left out of a judge's request, got "
                    f"{shown(getattr(self, name))}; remove it",
                    param=name,
                )
        if self.ranking == "kemeny" and len(self.candidates) > MOST_EXACT:
            raise PlanError(
                f"ranking 'kemeny' must have at most {MOST_EXACT} candidates, got "
                f"{len(self.candidates)}; ask for 'borda'",
                param="ranking",
            )

    def job(self, head: Head) -> Job:
        """Return the job, whose ballot is still to be suited to the model.

        By default as many tokens as the form needs are generated, greedily.
        """
        sampling = self.sampling(
            max_tokens=self.max_tokens,
            temperature=0.0 if self.temperature is None else self.temperature,
        )
        ballot = Ballot(
            question=self.question,
            candidates=self.candidates,
            template=AUTO if self.template is None else self.template,
            reference=self.reference,
            criteria=self.criteria,
            form=self.form or "relation",
            min_label_mass=0.01 if self.min_label_mass is None else self.min_label_mass,
            seed=self.seed or 0,
            ranking=self.ranking,
            tie_margin=self.tie_margin,
        )
        return Job(
            model=head.model,
            sampling=sampling,
            case=Case(ballot, head.fingerprint),
            deterministic=self.deterministic is not False,
            id=head.id,
        )

    def suited(self, ballot: Ballot, info: ModelInfo) -> Ballot:
        """Return the request's ballot as it will be shown to a model."""
        shown_as = suited(ballot, info)
        labels = labels_of(shown_as) if self.labels is None else self.labels
        taught = shown_as.template == info.template
        ties = self.allows_ties(taught)
        return replace(shown_as, lettering=labels, taught=taught, ties=ties)

    def allows_ties(self, taught: bool) -> bool:
        """Say whether the judge may answer that none is best.

        taught  whether the model was trained on the template, where it learnt when to say so

        Naming ties in a prompt invites them: models that were not taught say it of most pairs. A
        request does not tell whether there are any, so auto forbids; and with `tie_margin` it is
        the margin that says so.
        """
        if self.tie_margin is not None:
            return False
        if self.ties in (None, "auto"):
            return len(self.candidates) == 2 and taught
        return self.ties == "allow"

    def check_calls(self, plan: Plan, job: Job) -> None:
        """Refuse a plan that needs more calls than the request allows (PlanError)."""
        needed = plan.calls(job)
        if needed > self.most_calls:
            raise PlanError(
                f"max_calls must be at least {needed}, which stages {', '.join(plan.names)} need, "
                f"got {self.most_calls}; allow more, or leave a stage out",
                param="max_calls",
            )
