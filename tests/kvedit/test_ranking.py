import torch
from hypothesis import given
from hypothesis import strategies as st

from kvedit.ranking import importance, nearest_first, starts


def test_the_most_important_is_nearest_and_ties_keep_canonical_order() -> None:
    weight = torch.tensor([[0.1, 0.5, 0.5, 0.3]])
    assert nearest_first(weight).tolist() == [[1, 2, 3, 0]]


def test_spans_are_packed_from_the_end_without_gaps() -> None:
    lengths = torch.tensor([3, 5, 2])
    placed = starts(torch.tensor([[1, 0, 2], [2, 1, 0]]), lengths, end=12)
    assert placed.tolist() == [[4, 7, 2], [2, 5, 10]]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_importance_is_mean_attention_per_token(lengths: list[int], seed: int) -> None:
    scores = torch.randn(3, sum(lengths), generator=torch.Generator().manual_seed(seed)).double()
    mass = torch.stack([part.logsumexp(-1) for part in scores.split(lengths, -1)], -1)
    shares = scores.softmax(-1).split(lengths, -1)
    expected = torch.stack([share.mean(-1) for share in shares], -1)
    torch.testing.assert_close(importance(mass, torch.tensor(lengths)), expected)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_a_span_does_not_compete_for_its_own_rows(
    lengths: list[int], data: st.DataObject, seed: int
) -> None:
    own = data.draw(st.integers(0, len(lengths) - 1))
    scores = torch.randn(3, sum(lengths), generator=torch.Generator().manual_seed(seed)).double()
    parts = list(scores.split(lengths, -1))
    mass = torch.stack([part.logsumexp(-1) for part in parts], -1)
    found = importance(mass, torch.tensor(lengths), own)[0]
    assert found[own] == torch.inf
    others = [index for index in range(len(lengths)) if index != own]
    shares = torch.cat([parts[index] for index in others], -1).softmax(-1)
    for index, share in zip(others, shares.split([lengths[i] for i in others], -1), strict=True):
        torch.testing.assert_close(found[index], share.mean(-1).sum())


def test_a_span_alone_has_nobody_to_rank() -> None:
    found = importance(torch.tensor([[0.3], [7.0]]), torch.tensor([4]), own=0)
    assert found.tolist() == [[torch.inf]]
