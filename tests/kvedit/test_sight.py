import pytest
import torch

from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import causal, first


def test_a_span_that_stands_still_counts_rows_from_its_start() -> None:
    sight = Sight(Span(None), 7)
    assert sight.fixed
    assert sight.own(9) == 2
    assert sight.distance(9) == 2


def test_a_span_that_is_always_as_far_away_counts_rows_from_position_0() -> None:
    sight = Sight(Span(None), away=5)
    assert not sight.fixed
    assert sight.own(9) == 9
    assert sight.distance(9) == 5


def test_a_span_may_start_elsewhere_for_each_head_and_row() -> None:
    sight = Sight(Span(None), torch.tensor([3, 4]))
    assert not sight.fixed
    assert sight.own(9) == 9
    distance = sight.distance(torch.tensor([9, 10]))
    assert isinstance(distance, torch.Tensor)
    assert distance.tolist() == [6, 6]


def test_the_last_rows_stand_and_see_as_they_did() -> None:
    start = torch.arange(8).view(1, 2, 4)
    sights = (
        Sight(Span(None), visible=causal & first(torch.tensor([1, 2, 3, 4]))),
        Sight(Span(None), start),
        Sight(Span(None), torch.tensor([5])),
        Sight(Span(None), 3),
    )
    last = Rows(slice(2, 6), 10, sights).last(2)
    assert (last.tokens, last.place, last.count) == (slice(4, 6), 12, 2)
    counted, moved, *others = last.sights
    assert isinstance(counted, Sight) and isinstance(counted.visible.count, torch.Tensor)
    assert counted.visible.count.tolist() == [3, 4]
    assert counted.visible.nearest == 0
    assert isinstance(moved, Sight) and isinstance(moved.start, torch.Tensor)
    assert torch.equal(moved.start, start[..., 2:])
    assert others == list(sights[2:])


@pytest.mark.parametrize("count", [0, 3])
def test_rows_without_tensors_keep_their_sights(count: int) -> None:
    sights = (Sight(Span(None), visible=causal),)
    assert Rows(slice(0, 3), 0, sights).last(count).sights == sights
