"""What of the texts around a cursor stays: the nearest, within the room, cut in steps."""

from hypothesis import given
from hypothesis import strategies as st

from server.text.room import Shares, shares, up

lengths = st.integers(0, 2000)


def test_what_fits_stays_and_leaves_the_rest_to_others() -> None:
    assert shares(10, 5, 100, 16) == Shares(10, 5, 84)  # 15 count as 16
    assert shares(1000, 20, 110, 16) == Shares(88, 20, 0)  # 912 = 57 steps are cut
    assert shares(10, 1000, 110, 16) == Shares(10, 96, 0)
    assert shares(1000, 1000, 100, 1) == Shares(75, 25, 0)  # a quarter is the suffix's


@given(lengths, lengths, lengths, st.integers(1, 64))
def test_shares_keep_within_the_room(prefix: int, suffix: int, free: int, step: int) -> None:
    found = shares(prefix, suffix, free, step)
    assert found.prefix + found.suffix + found.others <= free
    assert 0 <= found.prefix <= prefix and 0 <= found.suffix <= suffix
    if prefix + suffix <= free:
        assert (found.prefix, found.suffix) == (prefix, suffix)
    else:  # no more than two steps are wasted
        assert found.prefix + found.suffix > free - 2 * step
        cut = prefix - found.prefix
        assert cut % step == 0 or cut == prefix


@given(st.integers(0, 999), st.integers(1, 99))
def test_up(number: int, step: int) -> None:
    assert up(number, step) % step == 0
    assert number <= up(number, step) < number + step
