"""What is concluded: the verdict, whom it prefers, how probably rightly, and whether to say so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from portia.probability import Fit, sigmoid, softmax, told
from portia.verdict import Verdict, decide
from server.job import Reply
from server.judge.ballot import Ballot, Call, Case
from server.judge.bias import key
from server.judge.calibration import ENOUGH
from server.judge.letters import TIE as TIE_LABEL


def verdict_of(reply: Reply, ballot: Ballot) -> Verdict:
    """Return what the votes of a reply say together."""
    return decide(
        reply.votes,
        ballot.texts,
        order_free=reply.order_free,
        method=ballot.ranking,
        tie_margin=ballot.tie_margin,
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with the probability that its preferred candidate is the right one.

    probability  None where nobody is preferred, or no values tell by how much
    fit          what it was calibrated by, or None: the margin, or the scores, taken for log-odds
    abstained    True = less probable than was asked for, so nobody is named; None = not asked for
    """

    verdict: Verdict
    probability: float | None
    fit: Fit | None
    abstained: bool | None

    @classmethod
    def of(cls, verdict: Verdict, fit: Fit | None, least: float | None) -> Decision:
        """Decide.

        fit    of judgements such as this one; it is of two candidates, and not used of more
        least  probability below which nobody is named; None = name in any case
        """
        used = fit if len(verdict.ranking) == 2 else None
        probability = _probability(verdict, used)
        if least is None:
            return cls(verdict, probability, used, None)
        abstained = probability is None or probability < least
        named = replace(verdict, winner=None, preferred=None) if abstained else verdict
        return cls(named, probability, used, abstained)

    def wire(self, ballot: Ballot) -> dict[str, Any]:
        """Return what the reply says first."""
        verdict = self.verdict
        fields = {
            "winner": _id(ballot, verdict.winner),
            "preferred": _id(ballot, verdict.preferred),
            "probability": self.probability,
            "calibrated": told(self.fit) if self.fit and self.probability is not None else None,
            "status": verdict.status,
        }
        return fields if self.abstained is None else {**fields, "abstained": self.abstained}


def _probability(verdict: Verdict, fit: Fit | None) -> float | None:
    """Return how probably the preferred is right, or None."""
    if verdict.preferred is None or verdict.margin is None:
        return None
    if len(verdict.ranking) == 2:
        return (fit or sigmoid)(verdict.margin)
    scores = [score for _, score in verdict.ranking if score is not None]
    places = [index for index, _ in verdict.ranking]
    return softmax(scores, places.index(verdict.preferred))


def _id(ballot: Ballot, index: int | None) -> str | None:
    return None if index is None else ballot.candidates[index].id


def fit_key(case: Case, stages: Sequence[dict[str, Any]]) -> str:
    """Return what a fit is a property of: all that a slot bias is, and the plan."""
    return json.dumps([*astuple(key(case, case.ballot)), list(stages)], sort_keys=True)


def warnings(ballot: Ballot, reply: Reply, decision: Decision) -> list[str]:
    """Return one sentence for each thing that was asked for and could not be had."""
    said = []
    popular = [call for call in reply.calls if _by_popularity(call)]
    if popular:
        said.append(
            f"label {TIE_LABEL!r} was the likeliest of {len(popular)} of {len(reply.calls)} calls "
            "and taken for a tie, which says little, since what this model gives it on identical "
            f"answers is not known; send tie_margin, or teach it by {ENOUGH} requests whose two "
            "texts are equal"
        )
    if ballot.tie_margin is not None and any(vote.values is None for vote in reply.votes):
        said.append(
            "tie_margin needs a margin, which answers in words alone do not give, and made no tie; "
            "use form 'score' or 'likert', or a model with logprobs"
        )
    if decision.abstained and decision.verdict.margin is None:
        said.append(
            "min_probability needs a margin, which answers in words alone do not give, so nobody "
            "is named; use form 'score' or 'likert', or a model with logprobs"
        )
    return said


def _by_popularity(call: Call) -> bool:
    """Say whether a call is a tie only because its model likes the label for one."""
    spoken = call.verdict == TIE_LABEL and call.logprobs is not None and call.tied is None
    return spoken and not call.ballot.taught and len({*call.ballot.texts}) > 1
