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
    """Return the user's message of a prompt."""
    return said(made)["user"]


def said(made: Ballot) -> dict[str, str]:
    """Return the messages of a prompt by their roles, each of which speaks once."""
    messages = render(made).messages
    found = {each.role: "".join(part.text for part in each.parts) for each in messages}
    assert len(found) == len(messages)
    return found
