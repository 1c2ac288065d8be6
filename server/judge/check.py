"""What makes a ballot impossible, before anything runs."""

from __future__ import annotations

from server.errors import PlanError
from server.judge.ballot import Ballot
from server.judge.forms import FORMS
from server.judge.letters import known
from server.judge.template import check_template


def check_ballot(ballot: Ballot) -> None:
    """Refuse a template that cannot be filled, labels or a form that do not suit (PlanError)."""
    check_template(ballot)
    _check_labels(ballot)
    most, count = FORMS[ballot.form].most, len(ballot.candidates)
    if most is not None and count > most:
        raise PlanError(
            f"form {ballot.form!r} must have {most} candidates, got {count}; use another form, or "
            "put stage 'pairwise' first, which judges them two by two",
            param="form",
        )


def _check_labels(ballot: Ballot) -> None:
    labels, count, most = ballot.lettering, len(ballot.candidates), len(known(ballot))
    if labels in ("fixed", "random"):
        return
    if ballot.form != "relation":
        raise _refusal(
            labels, "must go with form 'relation'", f"form {ballot.form!r}", "use 'fixed' labels"
        )
    if count > most:
        raise _refusal(labels, f"must name at most {most} candidates", str(count), "use 'fixed'")
    if labels == "ordinals" and ballot.as_documents:
        raise _refusal(
            labels,
            "cannot name candidates that are read as a set, which has no order",
            "a stage that reads them so",
            "use other labels, or stage 'swap'",
        )
    if labels == "brackets" and not ballot.evidence and "continued" not in ballot.chat:
        raise _refusal(
            labels,
            "must have a model whose answer can be begun with '[['",
            "one whose server or chat template is not known to take that",
            "use other labels",
        )


def _refusal(labels: str, rule: str, got: str, instead: str) -> PlanError:
    return PlanError(f"labels {labels!r} {rule}, got {got}; {instead}", param="labels")
