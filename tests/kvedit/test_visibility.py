from collections.abc import Callable

import torch
from devices import ONE, Devices
from hypothesis import given
from hypothesis import strategies as st

from kvedit.visibility import Visibility, beyond, causal, everything, first, within

numbers = st.integers(0, 12)
Seen = Callable[[int, int, int], bool]  # by row, token and number
PARTS: dict[str, tuple[Visibility | Callable[[int], Visibility], Seen]] = {
    "causal": (causal, lambda row, token, number: token <= row),
    "within": (within, lambda row, token, number: row - token < number),
    "beyond": (beyond, lambda row, token, number: row - token >= number),
    "first": (first, lambda row, token, number: token < number),
    "everything": (everything, lambda row, token, number: True),
}


def made(name: str, number: int) -> Visibility:
    part = PARTS[name][0]
    return part if isinstance(part, Visibility) else part(number)


@given(
    parts=st.lists(st.tuples(st.sampled_from(sorted(PARTS)), numbers), min_size=1, max_size=4),
    rows=st.lists(st.integers(-3, 15), min_size=1, max_size=5),
)
def test_what_all_parts_show_is_seen(parts: list[tuple[str, int]], rows: list[int]) -> None:
    visible = made(*parts[0])
    for part in parts[1:]:
        visible = visible & made(*part)
    kv = torch.arange(2, 14)
    mask = visible.mask(torch.tensor(rows), kv)
    expected = torch.tensor(
        [[all(PARTS[n][1](row, j, k) for n, k in parts) for j in range(2, 14)] for row in rows]
    )
    assert torch.equal(torch.ones_like(expected) if mask is None else mask, expected)


@given(
    parts=st.lists(st.tuples(st.sampled_from(sorted(PARTS)), numbers), min_size=1, max_size=4),
    row=st.integers(-3, 15),
)
def test_bounds_are_the_run_of_tokens_that_is_seen(parts: list[tuple[str, int]], row: int) -> None:
    visible = made(*parts[0])
    for part in parts[1:]:
        visible = visible & made(*part)
    low, high = visible.bounds(row)
    for token in range(16):
        seen = all(PARTS[name][1](row, token, number) for name, number in parts)
        assert (low <= token < high) == seen


@given(counts=st.lists(numbers, min_size=1, max_size=6), most=numbers)
def test_each_row_may_see_another_number_of_first_tokens(counts: list[int], most: int) -> None:
    rows, kv = torch.arange(3, 3 + len(counts)), torch.arange(12)
    mask = (first(torch.tensor(counts)) & first(most) & causal).mask(rows, kv)
    assert mask is not None
    expected = [
        [j < min(count, most) and j <= 3 + row for j in range(12)]
        for row, count in enumerate(counts)
    ]
    assert mask.tolist() == expected


def test_where_everything_is_seen_there_is_no_mask() -> None:
    assert everything.mask(torch.arange(3), torch.arange(4)) is None


def test_counts_may_be_elsewhere_than_rows() -> None:
    visible, rows, kv = causal & first(torch.tensor([1, 5, 2])), torch.arange(3), torch.arange(4)
    with Devices():
        mask = visible.mask(rows.to(ONE), kv.to(ONE))
        assert mask is not None and mask.device == ONE
        assert torch.equal(
            mask.cpu(), torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]) == 1
        )
        lower, upper = first(torch.tensor([3]).to(ONE)).bounds(4)
    assert lower == 0 and upper.tolist() == [3]  # type: ignore[union-attr]
