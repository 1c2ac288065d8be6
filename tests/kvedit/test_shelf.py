from hypothesis import given
from hypothesis import strategies as st

from kvedit.shelf import Shelf


def test_a_piece_comes_back_and_an_unknown_key_gives_none() -> None:
    shelf, piece = Shelf(10), object()
    shelf.put("a", piece, 4)
    assert shelf.take("a") is piece
    assert shelf.take("b") is None


def test_the_least_recently_used_goes_first() -> None:
    shelf = Shelf(10)
    for key in "abc":
        shelf.put(key, key, 3)
    shelf.take("a")
    shelf.put("d", "d", 3)
    assert [shelf.take(key) for key in "abcd"] == ["a", None, "c", "d"]


@given(puts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=30))
def test_the_budget_is_never_exceeded(puts: list[tuple[int, int]]) -> None:
    shelf = Shelf(10)
    for key, size in puts:
        shelf.put(key, size, size)
        assert shelf.used <= 10
    held = [shelf.take(key) for key in range(6)]
    assert shelf.used == sum(size for size in held if isinstance(size, int))
