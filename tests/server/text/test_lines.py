"""A completion ends at a shallower line, or at the end of one when time is over."""

from hypothesis import given
from hypothesis import strategies as st

from server.text.lines import LineStop

WRITTEN = "x = 1\n\n    y = 2\n        z\n  out\nmore"


def shown(pieces: list[str], indent: int = 0) -> tuple[str, bool]:
    stop = LineStop(indent)
    text = ""
    for piece in pieces:
        text += stop.feed(piece)
        if stop.stopped:
            return text, True
    return text + stop.end(), False


def test_a_shallower_line_ends_the_text_with_the_blank_ones_before_it() -> None:
    assert shown([WRITTEN], 4) == ("x = 1\n\n    y = 2\n        z", True)
    assert shown([WRITTEN], 2) == ("x = 1\n\n    y = 2\n        z\n  out", True)
    assert shown([WRITTEN], 5) == ("x = 1", True)
    assert shown(["a\n\n\nb"], 1) == ("a", True)
    assert shown(["a\r\n\tb\r\nc"], 1) == ("a\r\n\tb", True)


def test_without_an_indentation_nothing_is_held_back() -> None:
    assert shown([WRITTEN]) == (WRITTEN, False)
    assert LineStop().feed("a\n") == "a\n"


def test_the_first_line_is_as_it_is_and_an_end_of_a_line_at_the_end_stays() -> None:
    assert shown(["a", "b\n"], 4) == ("ab\n", False)
    assert shown(["  a\f\u2028b\n    c\n  "], 4) == ("  a\f\u2028b\n    c\n  ", False)


@given(st.lists(st.sampled_from(["a", "\n", " ", "  ", "\t", "\r\n", "bc\n d"])), st.integers(0, 3))
def test_it_does_not_matter_how_the_text_is_cut(pieces: list[str], indent: int) -> None:
    whole, letters = shown(["".join(pieces)], indent), shown([*"".join(pieces)], indent)
    assert whole == letters


def test_time_ends_the_text_where_a_line_ends() -> None:
    now = [0.0]
    stop = LineStop(seconds=1.0, clock=lambda: now[0])
    now[0] = 50.0  # the prompt's time does not count
    assert stop.feed("a") == "a"
    now[0] = 50.9
    assert stop.feed("\nb") == "\nb"
    now[0] = 51.1
    assert (stop.feed("c"), stop.stopped) == ("c", False)
    assert (stop.feed("d\ne"), stop.stopped) == ("d", True)
