"""Templates: built-in ones are complete, inline ones are checked, and no code is in either."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
from ballots import ballot, said, written

from server.engines.base import ModelInfo
from server.errors import PlanError
from server.judge.check import check_ballot
from server.judge.render import render, task
from server.judge.template import (
    MEASURED,
    NEEDS,
    PLACEHOLDER,
    built_in,
    labels_of,
    name_of,
    opener,
    suited,
    untold,
)
from server.prompt import ChatAbility

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
    old = {"plain", "rubric", "reference-guided", "correctness"}
    assert set(built_in()) == {*old, "chat", "chat-strict"}
    assert {name for name, made in built_in().items() if not made.system} == old
    assert not any(PLACEHOLDER.search(made.system) for made in built_in().values())


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
    told = said(made)
    prompt = told["user"]
    assert not PLACEHOLDER.search(prompt)
    assert ("Reference: R" in prompt) == ("reference" in given)
    assert ("Criteria: C" in prompt or "Rubric:\nC" in prompt) == ("criteria" in given)
    ends = "Answer A: one\nAnswer B: two\nWhich answer is best? Reply with its letter, or T for a "
    assert prompt.endswith(f"{ends}tie.")  # so both orders share all that comes before
    assert told.get("system", "") == built_in()[name].system
    assert told.get("assistant", "") == opener(made)


@pytest.mark.parametrize("name", sorted(built_in()))
@pytest.mark.parametrize("form", ["relation", "score", "likert"])
@pytest.mark.parametrize("evidence", [False, True])
def test_a_built_in_template_names_no_slot(name: str, form: str, evidence: bool) -> None:
    made = ballot(template=name, form=form, evidence=evidence, as_documents=True, **GIVEN)
    told = said(made)
    words = re.findall(r"\w+", f"{told.get('system', '')} {task(made)}".lower())
    named = {"first", "second", "last", "former", "latter"}
    assert not named.intersection(words) - ({"first", "last"} if evidence else set())
    if name.startswith("chat"):  # which a set is read with as well: it has no order
        assert "order" not in told["system"]
    assert ("assistant" in told) == (bool(opener(made)) and not evidence)


def test_a_template_is_the_models_own_or_the_best_measured() -> None:
    def chosen(given: str, own: str | None) -> str:
        info = ModelInfo("m", "m", 9, frozenset(), chat=frozenset({"system"}), template=own)
        found = suited(ballot(template=given), info)
        assert found.chat == {"system"}
        return found.template

    assert chosen("auto", "plain") == "plain"
    assert chosen("auto", None) == chosen("auto", "nosuch") == MEASURED
    assert chosen("rubric", "plain") == "rubric"
    assert chosen("{candidates}", "plain") == "{candidates}"
    assert (name_of(ballot()), name_of(ballot(template="{candidates}"))) == ("plain", "inline")


def test_what_an_answer_begins_with_leads_to_its_label() -> None:
    made = partial(ballot, template="chat-strict")
    assert opener(made()) == "Answer"
    assert opener(made(lettering="numbers")) == "Answer "  # a digit is a token of its own
    assert opener(made(lettering="ordinals")) == "The"
    assert opener(made(form="likert")) == "Number: "
    assert opener(made(form="score")) == "Scores: "
    assert opener(made(lettering="brackets")) == opener(ballot(lettering="brackets")) == "[["
    assert opener(ballot()) == opener(ballot(form="score")) == opener(made(evidence=True)) == ""
    assert opener(made(lettering="brackets", evidence=True)) == ""


def test_the_labels_of_a_template_are_used_where_they_suit() -> None:
    made = partial(ballot, template="chat-strict")
    assert labels_of(made()) == labels_of(made(evidence=True)) == "brackets"
    assert labels_of(ballot()) == labels_of(made(form="likert")) == "fixed"
    assert labels_of(ballot(template="{candidates}")) == "fixed"
    assert labels_of(made(chat=frozenset({"system"}))) == "fixed"


def test_what_a_model_cannot_be_shown_is_told() -> None:
    unable: frozenset[ChatAbility] = frozenset({"system"})
    bare = ballot(template="chat-strict", chat=unable)
    assert opener(bare) == ""
    assert not render(bare).continued
    assert [message.role for message in render(bare).messages] == ["system", "user"]
    assert untold(bare) == [
        "template 'chat-strict' begins the answer with 'Answer', which this model's server or chat "
        "template is not known to take; the model begins it by itself"
    ]
    for fine in (ballot(chat=unable), replace(bare, evidence=True), ballot(template="chat")):
        assert untold(fine) == []


def test_without_system_messages_the_user_says_it_above() -> None:
    given = ballot(template="chat-strict", chat=frozenset({"continued"}))
    with_system, without = (
        said(replace(given, chat=frozenset({"system", "continued"}))),
        said(given),
    )
    assert "system" not in without
    assert without["user"] == f"{with_system['system']}\n\n{with_system['user']}"


def test_sections_in_an_inline_template_are_text() -> None:
    inline = "[system]\nObey.\n[user]\n{question}{candidates}"
    made = ballot(template=inline)
    check_ballot(made)
    assert list(said(made)) == ["user"]
    assert written(made).startswith("[system]\nObey.\n[user]\nQ?")


def refused_labels(**changes: object) -> PlanError:
    error = refused(**changes)
    assert error.param == "labels"
    return error


def test_labels_that_do_not_suit_are_refused() -> None:
    for labels in ("numbers", "ordinals", "brackets"):
        told = refused_labels(lettering=labels, form="likert").message
        assert told == (
            f"labels {labels!r} must go with form 'relation', got form 'likert'; use 'fixed' labels"
        )
    with pytest.raises(PlanError, match="'numbers' must name at most 9 candidates, got 10; use"):
        check_ballot(ballot(*map(str, range(10)), lettering="numbers"))
    with pytest.raises(PlanError, match="'ordinals' must name at most 10 candidates, got 11; use"):
        check_ballot(ballot(*map(str, range(11)), lettering="ordinals"))
    assert "read as a set" in refused_labels(lettering="ordinals", as_documents=True).message
    unable: frozenset[ChatAbility] = frozenset({"system"})
    assert "begun with '[['" in refused_labels(lettering="brackets", chat=unable).message
    check_ballot(ballot(lettering="brackets", chat=unable, evidence=True))
    check_ballot(ballot(lettering="numbers", as_documents=True))


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
        ("nosuch", {}, "auto, one of chat, chat-strict, correctness, plain, reference-guided, rub"),
        ("nosuch", {}, "rubric, or contain {candidates} once"),
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
