import torch

from pine.order import nearest_first, starts


def test_most_important_is_nearest_and_ties_keep_canonical_order() -> None:
    weight = torch.tensor([[0.1, 0.5, 0.5, 0.3]])
    assert nearest_first(weight).tolist() == [[1, 2, 3, 0]]


def test_documents_are_packed_from_the_end_without_gaps() -> None:
    lengths = torch.tensor([3, 5, 2])
    placed = starts(torch.tensor([[1, 0, 2], [2, 1, 0]]), lengths, end=12)
    assert placed.tolist() == [[4, 7, 2], [2, 5, 10]]
