"""Questions among documents: where the gold one stands, and what counts as right."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from trials.evidence.questions import PAIRS, PASSAGES, Question, key_values, natural, plain


def written(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    passages: list[dict[str, object]] = [
        {
            "question": f"who wrote book {n}",
            "answers": [f"Writer {n}."],
            "ctxs": [{"title": f"Book {n}", "text": f"It is by the Writer {n}, of course."}],
        }
        for n in range(12)
    ]
    both = {"title": "Both", "text": "By Writer 1 and Writer 2."}
    passages.append({"question": "who", "answers": ["Writer 1", "Writer 2"], "ctxs": [both]})
    written(tmp_path / PASSAGES, passages)
    pairs = [[f"k{n}", f"v{n}"] for n in range(9)]
    written(
        tmp_path / PAIRS,
        [{"ordered_kv_records": pairs, "key": f"k{n}", "value": f"v{n}"} for n in range(9)],
    )
    return tmp_path


def test_no_other_passage_has_the_answer(folder: Path) -> None:
    for question in natural(folder, 13, 8, seed=1):
        assert len(set(question.documents(0))) == 8
        assert question.right(question.gold)
        assert not any(question.right(other) for other in question.others)


def test_near_ones_share_the_questions_words(folder: Path) -> None:
    asked = natural(folder, 12, 4, 1, near=True)
    assert asked == natural(folder, 12, 4, 1, near=True)
    for question in asked:
        assert len(set(question.documents(0))) == 4
        assert not any(question.right(other) for other in question.others)
    [books] = [each for each in asked if each.gold.startswith("Book 3")]
    assert all(other.startswith("Book") for other in books.others)  # "Both" has no word of it


def test_a_seed_draws_the_same(folder: Path) -> None:
    assert natural(folder, 5, 4, 7) == natural(folder, 5, 4, 7) != natural(folder, 5, 4, 8)


def test_the_gold_document_stands_where_it_is_put() -> None:
    question = Question("q", "gold", ("a", "b", "c", "d"), ("x",), "{documents}", 8)
    assert question.documents(0) == ("gold", "a", "b", "c", "d")
    assert question.documents(2) == ("a", "b", "gold", "c", "d")
    assert question.documents(-1) == question.documents(4) == ("a", "b", "c", "d", "gold")


def test_a_key_stands_among_others(folder: Path) -> None:
    for question in key_values(folder, 9, 4, 0):
        assert question.right(question.gold)
        assert len(question.others) == 3
        assert not any(question.right(other) for other in question.others)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("It was the Beatles!", True),
        ("it was BEATLES", True),
        ("Beat", False),
        ("beat les", False),
        ("", False),
    ],
)
def test_an_answer_is_compared_as_squad_does(said: str, right: bool) -> None:
    assert Question("q", "", (), ("The Beatles",), "", 8).right(said) is right


def test_plain_text_has_no_articles_and_one_space() -> None:
    assert plain(" The  cat, an  (odd) one; a-b ") == "cat odd one ab"
