import torch

from kvedit.spans import Span


def tokens(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count).float().view(1, 1, count, 1).expand(2, 3, count, 4)


def test_a_span_holds_what_was_appended_in_order() -> None:
    span, first = Span(), 0
    for count in (5, 0, 1, 70, 1, 300):
        span.append(tokens(first, count), -tokens(first, count))
        first += count
    assert span.length == first
    assert torch.equal(span.keys, tokens(0, first))
    assert torch.equal(span.values, -tokens(0, first))


def test_growing_token_by_token_moves_the_cache_a_logarithmic_number_of_times() -> None:
    span, places = Span(), set()
    for token in range(2000):
        span.append(tokens(token, 1), tokens(token, 1))
        places.add(span.keys.data_ptr())
    assert len(places) <= 6  # 64, 128, .. 2048
