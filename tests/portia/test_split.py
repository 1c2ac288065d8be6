"""Units: nothing is lost, and a cut stands where a reader would put it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portia.split import units

# what answers are made of, so that random texts have structure
PIECES = [
    *"abA. !?\n\r\t\u2028#|-*_=`~1)([]'\"",
    *("\n\n", "```", "```py\n", "~~~\n", "- ", "1. ", "(a) ", "# ", "Mr. ", "e.g. ", "3.14"),
    *("。", "？", "、", "三、", "مرحبا؟ ", "\u200f", "👨‍👩‍👧", "\ud800", "\x00", "e\u0301"),  # noqa: RUF001
]
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.text(st.characters(), max_size=80),  # surrogates too
)


@given(texts, st.sampled_from(["en", "de", "zh", "ja", "ar", "hi", "", "no such language"]))
def test_the_units_join_to_the_text(text: str, language: str) -> None:
    assert "".join(units(text, language)) == text


@given(texts)
def test_no_unit_is_blank_unless_the_text_is(text: str) -> None:
    found = units(text)
    if text.strip():
        assert all(unit.strip() for unit in found)
    else:
        assert found == ((text,) if text else ())


@pytest.mark.parametrize(
    "parts",
    [
        ["Ask Mr. Smith. ", "He knows, e.g. of 3.14 in the U.S. today! ", "Really?"],
        ["A line goes\non here. ", "And ends.\n\n", "Next."],
        [
            "Steps:\n",
            "1. Mix it. ",
            "Then wait.\n",
            "2. Bake\n   it.\n",
            "- a\n",
            "  * b\n",
            "(c) d",
        ],
        ["# One. Two\n", "Text. ", "More.\n\n", "## Three"],
        ["Title\n=====\n", "Text."],
        ["| a. B | c |\n", "|---|---|\n", "| D. E | f |\n", "After."],
        ["\n \n First. ", "Second.\n\n \n"],
        ["这是第一句。", "第二句！", "好吗？\n", "三、好。"],  # noqa: RUF001
        ["مرحبا بك. ", "كيف حالك؟ ", "أنا بخير."],
        ["😀 one. ", "😀! ", "Two 👨‍👩‍👧."],
        ["Nothing but markers:\n", "- \n", "1. "],
    ],
)
def test_prose_is_cut_at_sentences_items_headings_and_blank_lines(parts: list[str]) -> None:
    assert list(units("".join(parts))) == parts


@pytest.mark.parametrize(
    "parts",
    [
        ["So:\n", "```py\na = 1. \nB = 2\n```\n\n", "Done."],
        ["```\nimport a\n\n", "def f():\n    x\n\n    return y\n\n\n", "f()\n```\n", "Done."],
        ["~~~\nf(\n\n)\n```\n~~~\n", "Done."],  # a closing bracket goes on; ``` closes no ~~~
        ["- Item:\n", "  ```\n  a = 1\n\n", "  b = 2\n  ```\n", "- Next"],
        ["```\nnever. Closed\n"],
        ["Say ```a. b``` now. ", "Then go."],
    ],
)
def test_fenced_code_is_cut_between_top_level_statements_alone(parts: list[str]) -> None:
    assert list(units("".join(parts))) == parts


@pytest.mark.parametrize(
    "pattern",
    [
        "word ",
        "x",
        "'",
        "“”",
        "1. ",
        "- a\n",
        "\n",
        " ",
        "```\n",
        "(a. ",
        "👨‍👩‍👧",
        "|",
        "Hi there. Yes! ",
    ],
)
def test_a_long_answer_of_one_pattern_loses_nothing(pattern: str) -> None:
    """How long it takes, and that twice as long takes twice that, says `benchmarks/doubling.py`."""
    text = pattern * (20_000 // len(pattern))
    assert "".join(units(text)) == text


def test_a_sentence_longer_than_the_window_is_cut_at_a_space() -> None:
    text = "word " * 2000 + "end. Next one."
    found = units(text)
    assert found[-1] == "Next one."
    assert all(unit[-1] == " " for unit in found[:-1])
    assert 2 < len(found) < 6


def test_a_sentence_over_the_edge_of_the_window_stays_whole() -> None:
    sentences = [f"This is sentence number {number} of many. " for number in range(300)]
    assert list(units("".join(sentences))) == sentences
