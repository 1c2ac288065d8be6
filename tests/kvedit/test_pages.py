import torch
from hypothesis import given
from hypothesis import strategies as st

from kvedit.pages import Pages, hide_padding, page_length

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=12)


@given(lengths=lengths)
def test_every_token_has_its_own_slot_in_a_page_of_its_span(lengths: list[int]) -> None:
    pages = Pages(lengths, torch.device("cpu"))
    tokens = torch.arange(sum(lengths)).float().view(1, 1, -1, 1)
    laid = pages.lay(tokens)
    assert torch.equal(laid[:, :, pages.slot_of], tokens)
    span = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    assert torch.equal(pages.owner[pages.slot_of // pages.length], span)
    place = torch.cat([torch.arange(length) for length in lengths])
    assert torch.equal(pages.place[pages.slot_of], place)


@given(lengths=lengths)
def test_sums_per_span_leave_nothing_out(lengths: list[int]) -> None:
    pages = Pages(lengths, torch.device("cpu"))
    ones = pages.lay(torch.ones(1, 2, sum(lengths), 1)).squeeze(-1)
    assert pages.per_span(ones).tolist() == [[[float(n) for n in lengths]] * 2]


@given(lengths=lengths)
def test_padding_alone_is_hidden(lengths: list[int]) -> None:
    pages = Pages(lengths, torch.device("cpu"))
    hidden = hide_padding(torch.zeros(pages.slots), pages) == -torch.inf
    assert not hidden[pages.slot_of].any()
    assert int(hidden.sum()) == pages.slots - sum(lengths)


def test_equal_spans_fill_one_page_each_without_padding() -> None:
    pages = Pages([128] * 20, torch.device("cpu"))
    assert pages.one_page_each
    assert pages.filled is None


def test_a_hundredfold_difference_of_length_wastes_little() -> None:
    sizes = [5000, *([50] * 20)]
    page = page_length(sizes)
    slots = sum(-(-size // page) * page for size in sizes)
    assert slots < 1.4 * sum(sizes)
