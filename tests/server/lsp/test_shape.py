"""Where something is offered, and where a completion ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.lsp.shape import Shape, kept, offered, shape

DEF = "def add(a, b):\n    "


def fits(before: str, after: str = "", *, multiline: bool = True) -> Shape:
    found = shape(before, after, multiline=multiline, invoked=False)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [("x = fo", "o\n"), ("x = ", "_bar\n"), ("print(", "a)\n"), ("", ""), (" \n", "\n\t")],
)
def test_where_nothing_is_offered_by_itself(before: str, after: str) -> None:
    assert shape(before, after, multiline=True, invoked=False) is None
    assert shape(before, after, multiline=True, invoked=True) is not None


@pytest.mark.parametrize("after", ["", ")", '")', "])\n", "):\n", " }  \n", '";', "\n\nx = 1"])
def test_what_an_editor_closes_by_itself_may_stand_behind(after: str) -> None:
    assert shape("print(x", after, multiline=True, invoked=False) is not None


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (DEF, "", True),
        ("def f():", "\n", True),
        ("if (x) {", "\n}", True),
        ("x = [", "", True),
        ("for i in 1 2; do", "", True),
        ("x = ", "", False),
        ("undo", "", False),
        ("print(", ")", False),
        ("    ", "  # why", False),
    ],
)
def test_a_block_is_offered_where_one_begins(before: str, after: str, lines: bool) -> None:
    assert shape(before, after, multiline=True, invoked=True) is not None
    found = shape(before, after, multiline=True, invoked=True)
    assert found is not None and found.lines is lines
    never = shape(before, after, multiline=False, invoked=True)
    assert never is not None and not never.lines


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_below(end: str) -> None:
    found = fits(f"a{end}  ", f"{end}{end}  next(){end}more{end}")
    assert (found.indent, found.blank, found.rest, found.following) == ("  ", True, "", "next()")


def ended(text: str, before: str, after: str = "") -> str:
    return kept(text, fits(before, after), whole=True)[0]


@pytest.mark.parametrize(
    ("text", "before", "after", "left"),
    [
        # the rest of a line
        ("1\ny = 2", "x = ", "", "1"),
        # a block ends where a line is further out than it began
        ("x = 1\n    y = 2\n\nz = 3\n", DEF, "", "x = 1\n    y = 2\n\n"),
        ("\n        x = 1\n    y = 2\n", "    if x:", "", "\n        x = 1\n"),
        ("\n        x = 1\n", "    if x:", "", "\n        x = 1\n"),
        ("x = 1\n\ty = 2\nz", "def f():\n\t", "", "x = 1\n\ty = 2\n"),
        # with the bracket that closes it, and no more
        ("\n        x();\n    }\n\n    f();\n", "    if (x) {", "", "\n        x();\n    }"),
        ("\n    1,\n]\nx = 2\n", "y = [", "", "\n    1,\n]"),
        # at the outermost level: one definition
        ("def f():\n    x\n\ny = 1\n", "import a\n", "", "def f():\n    x\n\n"),
        ("a = 1\nb = 2\n", "import a\n", "", "a = 1\nb = 2\n"),
        # what stands below already is not offered again
        ("x = 1\n    return x\n", DEF, "\n    return x\n", "x = 1\n"),
        ("return x\n", DEF, "\n    return x\n", ""),
        ("\n        a\n    return x", "    if x:", "\n    return x\n", "\n        a\n"),
        # an indentation that the model writes itself
        ("    return 1\n\ndef g():\n    pass\n", "def f():\n", "", "    return 1\n\n"),
    ],
)
def test_where_a_completion_ends(text: str, before: str, after: str, left: str) -> None:
    assert ended(text, before, after) == left


LINES = st.lists(
    st.sampled_from(["", "  ", "x", "return x", "}", ")", "    y", "\t", "    }", "  z = 1", "\r"]),
    max_size=8,
).map("\n".join)


@given(LINES, st.sampled_from([DEF, "x = ", "if (a) {", "", "    ", "a\n"]), st.integers(0, 60))
def test_what_is_kept_early_is_kept_in_the_end(text: str, before: str, length: int) -> None:
    """So that a completion may be stopped as soon as it has ended."""
    place = shape(before, "\n    return x\n", multiline=True, invoked=True)
    assert place is not None
    early, done = kept(text[:length], place, whole=False)
    if done:
        assert kept(text, place, whole=True)[0] == early


@pytest.mark.parametrize(
    ("text", "before", "after", "shown"),
    [
        ("a, b)", "f(", ")", "a, b"),
        ("g(a), b)", "f(", ")", "g(a), b"),
        ("g(a)", "f(", ")", "g(a)"),
        ("self):", "def f(", "):", "self"),
        ("x])", "f([", "])", "x"),
        ('hello"', 'x = "', '"', "hello"),
        ("b)", "f(a, ", "", "b)"),
        ("number < 0:", "if ", ":", "number < 0"),
        ("1  \t", "x = ", "", "1"),
        ("  \n ", DEF, "", ""),
    ],
)
def test_what_stands_behind_is_not_offered_twice(
    text: str, before: str, after: str, shown: str
) -> None:
    assert offered(text, fits(before, after), cut_off=False) == shown


def test_half_a_line_is_not_offered_below_whole_ones() -> None:
    place = fits(DEF)
    assert offered("x = 1\n    retu", place, cut_off=True) == "x = 1"
    assert offered("retu", place, cut_off=True) == "retu"
    assert offered("\n    retu", fits("if x:"), cut_off=True) == "\n    retu"
