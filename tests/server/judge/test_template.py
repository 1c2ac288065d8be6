"""Templates: built-in ones are complete, inline ones are checked, and no code is in either."""

from __future__ import annotations

import pytest
from ballots import ballot, written

from server.errors import PlanError
from server.judge.check import check_ballot
from server.judge.template import NEEDS, PLACEHOLDER, built_in

GIVEN = {"reference": "R", "criteria": "C"}


def refused(**changes: object) -> PlanError:
    with pytest.raises(PlanError) as caught:
        check_ballot(ballot(**changes))
    assert caught.value.status == 400
    return caught.value


def test_the_plain_template() -> None:
    assert written(ballot("one", "two")) == (
        "Question: Q?\nAnswer A: one\nAnswer B: two\n"
        "Which answer is best? Reply with its letter, or T for a tie."
    )
    full = written(ballot("one", "two", **GIVEN))
    assert full.startswith("Question: Q?\nReference: R\nCriteria: C\nAnswer A: one\n")


def test_the_built_in_templates() -> None:
    assert set(built_in()) == {"plain", "rubric", "reference-guided", "correctness"}


@pytest.mark.parametrize("name", sorted(built_in()))
@pytest.mark.parametrize("given", [{}, {"reference": "R"}, {"criteria": "C"}, GIVEN])
def test_a_built_in_template_shows_all_that_is_given(name: str, given: dict[str, str]) -> None:
    made = ballot("one", "two", template=name, **given)
    if NEEDS.get(name, "question") not in {"question", *given}:
        needed = NEEDS[name]
        assert refused(template=name, **given).message == (
            f"template {name!r} must be given {needed}, got none; send {needed}, or use another "
            "template"
        )
        return
    check_ballot(made)
    prompt = written(made)
    assert not PLACEHOLDER.search(prompt)
    assert ("Reference: R" in prompt) == ("reference" in given)
    assert ("Criteria: C" in prompt or "Rubric:\nC" in prompt) == ("criteria" in given)
    ends = "Answer A: one\nAnswer B: two\nWhich answer is best? Reply with its letter, or T for a "
    assert prompt.endswith(f"{ends}tie.")  # so both orders share all that comes before


def test_an_inline_template_keeps_other_braces() -> None:
    made = ballot("one", "two", template='{"q": "{question}"} {} {candidates}end {reference}')
    check_ballot(made)
    assert written(made) == '{"q": "Q?"} {} Answer A: one\nAnswer B: two\nend '


def test_an_inline_template_may_say_where_the_task_goes() -> None:
    made = ballot("one", "two", template="{question} {task}\n{candidates}", form="score")
    check_ballot(made)
    assert written(made).startswith("Q? Give every answer a score from 1 (worst) to 10 (best).")


@pytest.mark.parametrize(
    ("template", "given", "told"),
    [
        ("nosuch", {}, "one of correctness, plain, reference-guided, rubric, or contain {candid"),
        ("{question}", {}, "contain {candidates} once"),
        ("{question}{candidates}{candidates}", {}, "contain {candidates} once"),
        ("{candidates}", {}, "must contain {question}"),
        ("{question}{candidates}", {"criteria": "C"}, "must contain {criteria}"),
        ("{question}{candidates}", {"reference": "R"}, "must contain {reference}"),
        ("{question.__class__}{candidates}", {}, "{question.__class__}"),
        ("{question!r}{candidates}", {}, "must name only question, reference"),
        ("{answer}{question}{candidates}", {}, "got {answer}"),
        ("{question}{candidates}", {"form": "score"}, "must contain {task}, which says how to"),
        ("{question}{candidates}", {"evidence": True}, "{task}, which says how to answer with ev"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(
    template: str, given: dict[str, str], told: str
) -> None:
    error = refused(template=template, **given)
    assert told in error.message
    assert error.param == "template"


def test_a_form_for_two_is_refused_for_three() -> None:
    with pytest.raises(PlanError, match="form 'likert' must have 2 candidates, got 3; use anoth"):
        check_ballot(ballot("x", "y", "z", form="likert"))
