"""The generated world: a pure function of its seed, honest about its biases."""

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket import data

seeds = st.integers(0, 10**6)


def named(document: str) -> str:
    """Return whom a document is about: "The city of Mira is Oslo."."""
    return document.split()[3]


@given(seeds, st.integers(2, 20))
def test_a_seed_says_everything(seed: int, documents: int) -> None:
    once = data.sample(Random(seed), documents)
    assert once == data.sample(Random(seed), documents)
    assert once != data.sample(Random(seed + 1), documents)


@given(seeds, st.integers(1, 20))
def test_the_gold_document_alone_holds_the_answer(seed: int, count: int) -> None:
    random = Random(seed)
    problem = data.retrieval(random, count, random.randrange(count))
    names = [named(document) for document in problem.documents]
    assert len(set(names)) == count
    asked = re.findall(r"\w+", problem.question)  # whole words: "Uma" is not "Umar"
    assert names[problem.gold] in asked
    assert problem.answer in problem.documents[problem.gold]
    assert all(name not in asked for name in names if name != names[problem.gold])


@given(seeds, st.integers(2, 5), st.floats(0, 1))
def test_a_winner_is_the_only_right_answer(seed: int, candidates: int, tie: float) -> None:
    contest = data.contest(Random(seed), candidates, 0.5, tie)
    assert len(contest.candidates) == candidates
    if contest.winner is None:
        assert sum(contest.right) in (0, candidates)
    else:
        assert contest.right[contest.winner]
        assert contest.candidates.count(contest.candidates[contest.winner]) == 1


def test_a_reference_is_the_right_answer() -> None:
    random = Random(0)
    contests = [data.contest(random, 2, 0.5, tie=0.0) for _ in range(300)]
    shown = [contest for contest in contests if contest.reference]
    assert shown
    for contest in shown:
        assert contest.winner is not None
        winner = contest.candidates[contest.winner]
        assert winner in contest.reference  # the bare value, or the whole sentence
        assert all(text not in contest.reference for text in contest.candidates if text != winner)


def test_sums_are_right() -> None:
    random = Random(0)
    for _ in range(200):
        question, value, wrong = data.arithmetic(random)
        left, word, right = question.removeprefix("What is ").removesuffix("?").split()
        signed = int(right) if word == "plus" else -int(right)
        assert int(value) == int(left) + signed
        assert wrong
        assert value not in wrong


def test_the_first_answer_wins_more_often() -> None:
    random = Random(0)
    contests = [data.contest(random, 2, data.FIRST_WINS, tie=0.0) for _ in range(4000)]
    first = sum(contest.winner == 0 for contest in contests) / 4000
    labelled = sum(data.verdict(random, contest) == "A" for contest in contests) / 4000
    assert first == pytest.approx(0.65, abs=0.03)
    assert labelled == pytest.approx(0.65 + 0.35 * data.FIRST_NOISE, abs=0.03)


def test_outer_documents_are_asked_for_more_often() -> None:
    assert data.end_heavy(5) == [3, 1.5, 1, 1.5, 3]
    random = Random(0)
    first_asked: Counter[int] = Counter()
    for _ in range(2000):
        text = "".join(piece.text for piece in data.reading_sample(random, 10))
        *documents, asked = text.split("<|end|>\n<|assistant|>")[0].split("\n\n")
        names = [named(document.split("\n")[-1]) for document in documents]
        first_asked.update(place for place, name in enumerate(names) if name in asked)
    middle = (first_asked[4] + first_asked[5]) / 2
    assert first_asked[0] > 2 * middle
    assert first_asked[9] > 2 * middle


def test_a_judge_prompt_looks_as_agreed() -> None:
    assert data.judge_prompt("What is 3 plus 4?", "7", ("7", "8")) == (
        "Question: What is 3 plus 4?\nReference: 7\nAnswer A: 7\nAnswer B: 8\n"
        "Which answer is best? Reply with its letter, or T for a tie."
    )
    assert data.TIE not in data.LABELS
    assert len(set(data.LABELS)) == 25
