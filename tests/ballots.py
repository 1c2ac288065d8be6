"""Ballots for tests, and what their prompts say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from server.job import Job, Sampling
from server.judge.ballot import Ballot, Candidate, Case
from server.judge.render import render


def ballot(*texts: str, **changes: Any) -> Ballot:
    """Return a ballot of some texts, whose ids are their places."""
    candidates = tuple(Candidate(str(i), text, i) for i, text in enumerate(texts or ("x", "y")))
    return Ballot(**{"question": "Q?", "candidates": candidates, **changes})


def judging(*texts: str, **changes: Any) -> Job:
    """Return a judge's job."""
    return Job("m", Sampling(), case=Case(ballot(*texts, **changes), "fp"))


def changed(job: Job, **changes: Any) -> Job:
    """Return a judge's job with another case."""
    assert job.case is not None
    return job.but(case=replace(job.case, **changes))


def written(made: Ballot) -> str:
    """Return the prompt's only message."""
    [message] = render(made).messages
    assert message.role == "user"
    return "".join(part.text for part in message.parts)
