"""Lateness: by hand, and by the papers' sums written out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sessions.streams.latency import lagging, latency


def test_wait_k_on_texts_of_one_length_is_k_late() -> None:
    assert lagging([3, 4, 5, 6, 6, 6], 6) == pytest.approx(3)
    assert lagging([6, 6, 6], 6) == 6


def test_by_hand() -> None:
    # gamma = 4 / 2: words 0 and 1 count, 1 - 0 and 2 - 1 / 2
    assert lagging([1, 2, 2, 2], 2) == pytest.approx((1 + 1.5) / 2)
    # a reference of 8 words: gamma = 8 / 2
    assert lagging([1, 2, 2, 2], 2, 8) == pytest.approx((1 + 1.75) / 2)
    assert lagging([], 7) == 7


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_the_sum_written_out(steps: list[int], reference: int) -> None:
    source = 9
    read = sorted(steps)
    late, count = 0.0, 0
    for t in range(1, len(read) + 1):
        late += read[t - 1] - (t - 1) * source / max(len(read), reference)
        count += 1
        if read[t - 1] == source:
            break
    assert lagging(read, source, reference) == pytest.approx(late / count)


def test_who_talks_more_gains_nothing() -> None:
    said = latency([1, 2, 3, 3, 3, 3], 3)
    assert said["length_ratio"] == 2
    assert latency([], 0)["length_ratio"] == 0
    assert said["length_adaptive_average_lagging"] == pytest.approx(said["average_lagging"])
    # one word only: by AL it is far ahead of its source's pace, by LAAL it is not
    short = latency([1], 3)
    assert short["average_lagging"] == short["length_adaptive_average_lagging"] == 1
