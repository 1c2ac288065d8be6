import torch
from hypothesis import given
from hypothesis import strategies as st

from kvedit.executors.cpu.groups import WASTE, Group, groups
from kvedit.executors.cpu.pieces import PIECE, Cut
from kvedit.pages import Pages

sizes = st.lists(st.integers(1, 700), min_size=1, max_size=8)


def cut_of(lengths: list[int]) -> tuple[Pages, Cut]:
    pages = Pages(lengths, torch.device("cpu"))
    return pages, Cut.of(pages)


def test_a_long_span_is_cut_into_pieces() -> None:
    _, cut = cut_of([300, 10])
    second = int(cut.begins[1])
    assert cut.pieces.tolist() == [[0, 0, PIECE], [0, PIECE, 44], [1, second, 10]]


@given(lengths=sizes)
def test_pieces_hold_all_tokens_once_and_no_padding(lengths: list[int]) -> None:
    pages, cut = cut_of(lengths)
    slots = [
        (span, slot)
        for span, begin, count in cut.pieces.tolist()
        for slot in range(begin, begin + count)
    ]
    assert [slot for _, slot in slots] == pages.slot_of.tolist()
    assert [span for span, _ in slots] == [
        span for span, length in enumerate(lengths) for _ in range(length)
    ]
    assert max(cut.pieces[:, 2].tolist()) <= PIECE


@given(lengths=sizes)
def test_each_token_is_as_near_as_its_span_may_be(lengths: list[int]) -> None:
    found = (1000 + cut_of(lengths)[1].ahead).tolist()
    assert found == [1000 - length + token for length in lengths for token in range(length)]


@given(lengths=sizes, budget=st.sampled_from([1, 1000, 10**9]))
def test_groups_hold_all_spans_in_order_and_waste_little(lengths: list[int], budget: int) -> None:
    found = groups(lengths, 100, budget)
    assert [span for group in found for span in group.spans] == list(range(len(lengths)))
    for group in found:
        assert len(group.spans) <= max(1, budget // 100)
        assert group.row.numel() <= WASTE * (group.tokens.stop - group.tokens.start)


@given(lengths=sizes, data=st.data())
def test_what_is_padded_comes_back(lengths: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(lengths) - 1))
    last = data.draw(st.integers(first + 1, len(lengths)))
    group = Group.of(lengths, range(first, last))
    rows = torch.arange(2.0 * sum(lengths)).view(2, -1, 1)
    padded = group.gather(rows)
    assert padded.shape == (2, last - first, max(lengths[first:last]), 1)
    assert torch.equal(group.scatter(padded), rows[:, group.tokens])
