"""What makes a ballot impossible, before anything runs."""

from __future__ import annotations

from server.errors import PlanError
from server.judge.ballot import Ballot
from server.judge.forms import FORMS
from server.judge.template import check_template


def check_ballot(ballot: Ballot) -> None:
    """Refuse a template that cannot be filled, or a form for fewer candidates (PlanError)."""
    check_template(ballot)
    most, count = FORMS[ballot.form].most, len(ballot.candidates)
    if most is not None and count > most:
        raise PlanError(
            f"form {ballot.form!r} must have {most} candidates, got {count}; use another form, or "
            "put stage 'pairwise' first, which judges them two by two",
            param="form",
        )
