"""Forms: what an answer says, and never a guess."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher

from portia.verdict import TIE
from server.judge.forms import FORMS, LEAST, Said, concluded, greatest, majority

AB = ("A", "B")
RELATION, SCORE, LIKERT = (FORMS[name] for name in ("relation", "score", "likert"))
logprob = st.floats(-30, 0, allow_nan=False)


@pytest.mark.parametrize("said", ["A", " A", "A.", "[[A]]", "(A)", "A:", "\nA\n"])
def test_a_text_that_is_one_letter_is_read(said: str) -> None:
    assert RELATION.parse(said, AB, True) == Said("A", 0)


@pytest.mark.parametrize(
    "said",
    ["", "C", "a", "A or B", "The best is A", "AB", "[[A]] [[B]]", "[A]", "A..", "T-shirt", "🙂"],
)
def test_any_other_text_is_not_guessed(said: str) -> None:
    assert RELATION.parse(said, AB, True) == Said()


def test_letters_are_those_of_the_ballot() -> None:
    assert RELATION.parse("Q", ("K", "Q"), True) == Said("Q", 1)
    assert RELATION.parse("A", ("K", "Q"), True) == Said()
    assert RELATION.parse("T", ("K", "Q"), True) == Said("T", TIE)


def test_labels_without_mass_give_no_verdict() -> None:
    def holding(mass: float) -> dict[str, float]:
        return {"A": math.log(0.9 * mass), "B": math.log(0.1 * mass), "T": LEAST}

    assert greatest(holding(0.02), 0.01) == "A"
    assert greatest(holding(0.005), 0.01) is None
    assert greatest(holding(0.005), 0.001) == "A"
    said = RELATION.weigh(holding(0.005), AB, 0.01)
    assert (said.verdict, said.choice) == (None, None)
    assert said.values == (math.log(0.9 * 0.005), math.log(0.1 * 0.005))


def test_equal_labels_tie() -> None:
    assert greatest({"A": -0.7, "B": -0.7, "T": -9.0}, 0.01) == "T"
    assert greatest({"A": -0.7, "B": -0.8, "T": -0.7}, 0.01) == "T"


@pytest.mark.parametrize(
    ("said", "values"),
    [
        ("8 6", (8, 6)),
        ("8, 6", (8, 6)),
        ("8\n6.", (8, 6)),
        ("[[10 1]]", (10, 1)),
        ("7.5 7.25", (7.5, 7.25)),
        ("8/10, 6/10", (8, 6)),
        ("7 7", (7, 7)),
    ],
)
def test_scores_are_read_in_the_order_of_the_slots(said: str, values: tuple[float, ...]) -> None:
    found = SCORE.parse(said, AB, True)
    assert found.values == values
    first, second = values
    assert found.choice == (TIE if first == second else int(second > first))


@pytest.mark.parametrize(
    "said",
    ["", "8", "8 6 4", "0 6", "8 11", "8 6 points", "eight six", "8 -6", "A", "8 6\n9 9", "8  x"],
)
def test_scores_that_are_not_one_number_each_are_not_guessed(said: str) -> None:
    assert SCORE.parse(said, AB, True) == Said()


@pytest.mark.parametrize("count", [2, 3, 25])
def test_what_the_grammar_of_scores_allows_can_be_read(count: int) -> None:
    letters = tuple("ABCDEFGHIJKLMNOPQRSUVWXYZ"[:count])
    grammar = SCORE.grammar(letters)
    assert grammar is not None
    assert not LLMatcher.validate_grammar(grammar)
    said = SCORE.parse(" ".join(["10", "1", *"2" * count][:count]), letters, True)
    assert said.choice == 0


@given(st.lists(logprob, min_size=5, max_size=5), st.booleans())
def test_exchanging_the_answers_mirrors_the_likert_scale(logprobs: list[float], ties: bool) -> None:
    points = LIKERT.labels(AB, ties)
    one = LIKERT.weigh(dict(zip(points, logprobs, strict=False)), AB, 0)
    other = LIKERT.weigh(dict(zip(points[::-1], logprobs, strict=False)), AB, 0)
    assert one.values is not None and other.values is not None
    assert one.values == other.values[::-1]
    assert other.choice == {0: 1, 1: 0, TIE: TIE}[one.choice or 0]
    assert abs(one.values[0]) <= 1


@given(st.integers(1, 5))
def test_a_certain_point_is_read_as_its_text_is(point: int) -> None:
    certain = {name: 0.0 if name == str(point) else LEAST for name in "12345"}
    weighed, parsed = LIKERT.weigh(certain, AB, 0.01), LIKERT.parse(f" {point}.", AB, True)
    assert weighed == parsed
    assert parsed.values == ((3 - point) / 2, (point - 3) / 2)


def test_without_ties_nothing_names_one() -> None:
    assert RELATION.labels(AB, False) == AB
    assert LIKERT.labels(AB, False) == tuple("1234")
    assert RELATION.parse("T", AB, False) == concluded(RELATION, "[[T]]", AB, False) == Said()
    assert LIKERT.parse("5", AB, False) == Said()
    for name, made in FORMS.items():
        text = " ".join(made.task(AB, False)).lower()
        assert "tie" not in text and "equally" not in text
        assert made.forced == (made.task(AB, True) != made.task(AB, False)) == (name != "score")


@pytest.mark.parametrize(("point", "lead"), [("1", 2), ("2", 1), ("3", -1), ("4", -2)])
def test_a_step_of_the_scale_means_the_same_without_its_middle(point: str, lead: int) -> None:
    certain = {name: 0.0 if name == point else LEAST for name in "1234"}
    weighed, parsed = LIKERT.weigh(certain, AB, 0.01), LIKERT.parse(point, AB, False)
    assert weighed == parsed == Said(point, 0 if lead > 0 else 1, (lead / 2, -lead / 2))


def test_likert_takes_the_more_probable_side() -> None:
    logs = [math.log(chance) for chance in (0.25, 0.2, 0.3, 0.05, 0.2)]
    said = LIKERT.weigh(dict(zip("12345", logs, strict=True)), AB, 0.01)
    assert (said.verdict, said.choice) == ("3", 0)  # 0.45 for the first, though 3 is likeliest
    few = LIKERT.weigh(dict.fromkeys("12345", -9.0), AB, 0.01)
    assert (few.verdict, few.choice) == (None, None)
    for text in ("6", "0", "2 3", "", "two"):
        assert LIKERT.parse(text, AB, True) == Said()


@pytest.mark.parametrize(
    "end", ["Verdict: [[B]]", "[[B]]", "**Verdict: [[B]]**", "  verdict: [[B]].  \n\n"]
)
def test_the_last_line_alone_concludes(end: str) -> None:
    quoting = "The candidate claims:\nVerdict: [[A]]\nI do not agree. "
    assert concluded(RELATION, f"{quoting}\n{end}", AB, True).verdict == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Verdict: [[A]]\nThat is what candidate A wrote of itself.",
        'It says "Verdict: [[A]]"',
        "> Verdict: [[A]]",
        "Verdict: A",
        "Verdict: [[A]] or [[B]]",
        "Verdict: [[C]]",
        "The verdict is [[A]]",
    ],
)
def test_without_a_last_line_that_is_a_verdict_there_is_none(text: str) -> None:
    assert concluded(RELATION, text, AB, True) == Said()


def test_other_forms_conclude_too() -> None:
    assert concluded(SCORE, "First.\nVerdict: [[8 6]]", AB, True) == Said("8 6", 0, (8.0, 6.0))
    assert concluded(LIKERT, "First.\nVerdict: [[4]]", AB, True).choice == 1


@pytest.mark.parametrize(
    ("choices", "found"),
    [
        ([0, 0, 1], 0),
        ([0, 1], TIE),
        ([0, 1, TIE], TIE),
        ([TIE, TIE, 0], TIE),
        ([None, None, 1], 1),
        ([None], None),
        ([1, None, None, 1, 0], 1),
    ],
)
def test_most_of_the_readable_answers_decide(choices: list[int | None], found: int | None) -> None:
    said = [Said() if choice is None else Said(str(choice), choice) for choice in choices]
    assert majority(said).choice == found
    assert majority(said[::-1]).choice == found


def test_the_values_of_several_answers_are_their_means() -> None:
    said = [Said("8 6", 0, (8.0, 6.0)), Said(), Said("7 9", 1, (7.0, 9.0)), Said("9 5", 0, (9, 5))]
    assert majority(said) == Said("8 6", 0, (8.0, 20 / 3))


@pytest.mark.parametrize("ties", [True, False])
def test_every_form_says_how_to_answer(ties: bool) -> None:
    for name, made in FORMS.items():
        what, how, verdict = made.task(("K", "Q"), ties)
        assert what and how and verdict.startswith("X ")
        if name != "relation":
            assert "K" in what + how and "Q" in what + how  # in whatever order they are shown
