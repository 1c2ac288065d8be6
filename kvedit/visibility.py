"""Which tokens of a span a row sees: predicates on distance and index, always one run of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Bound = int | Tensor  # of one row, or [query] int64

EVERYTHING = 1 << 40  # more tokens than any span has


@dataclass(frozen=True, slots=True, eq=False)
class Visibility:
    """The tokens that a row sees; `one & other` sees what both see.

    nearest   tokens: what is closer to the row is hidden (0 = what comes after it), or None
    farthest  tokens: what is as far away as that, or farther, is hidden, or None
    count     the first tokens of the span that are seen, one number or [query], or None = all
    """

    nearest: int | None = None
    farthest: int | None = None
    count: Bound | None = None

    def __and__(self, other: Visibility) -> Visibility:
        return Visibility(
            _tighter(max, self.nearest, other.nearest),
            _tighter(min, self.farthest, other.farthest),
            _both(self.count, other.count),
        )

    def bounds(self, own: Bound) -> tuple[Bound, Bound]:
        """Return the first token that is seen, and the one after the last.

        own  the row's own index in the span's frame, or [query] of them

        A row at index 9 sees by `causal & within(4)` the tokens from 6 to before 10.
        """
        lower: Bound = 0 if self.farthest is None else own - self.farthest + 1
        upper: Bound = EVERYTHING if self.nearest is None else own - self.nearest + 1
        if self.count is not None:
            upper = _lesser(upper, self.count)
        return lower, upper

    def mask(self, own: Tensor, kv: Tensor) -> Tensor | None:
        """Return where rows see tokens, [query, kv] bool; None = everywhere.

        own  [query] int64, the rows' own indices in the span's frame
        kv   [kv] int64, the tokens' indices there
        """
        if self is everything:
            return None
        lower, upper = (torch.as_tensor(each, device=own.device) for each in self.bounds(own))
        seen = (kv >= lower[..., None]) & (kv < upper[..., None])
        return seen.expand(len(own), len(kv))

    def after(self, skipped: int) -> Visibility:
        """Return what the rows behind the first ones see."""
        if not isinstance(self.count, Tensor) or not self.count.dim():
            return self
        return Visibility(self.nearest, self.farthest, self.count[skipped:])


everything = Visibility()
causal = Visibility(nearest=0)


def within(window: int) -> Visibility:
    """See what is less than `window` tokens away: the row itself is 0 away."""
    return Visibility(farthest=window)


def beyond(distance: int) -> Visibility:
    """See what is at least that many tokens away."""
    return Visibility(nearest=distance)


def first(count: Bound) -> Visibility:
    """See the first tokens of the span, as many for all rows or [query] for each."""
    return Visibility(count=count)


def _tighter(choose: Callable[[int, int], int], one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return choose(one, other)


def _both(one: Bound | None, other: Bound | None) -> Bound | None:
    if one is None or other is None:
        return one if other is None else other
    return _lesser(one, other)


def _lesser(one: Bound, other: Bound) -> Bound:
    if isinstance(one, int) and isinstance(other, int):
        return min(one, other)
    # where the first is, as a rule the row's own index: counts may come from elsewhere
    device = next(each.device for each in (one, other) if isinstance(each, Tensor))
    bounds = (torch.as_tensor(each, device=device) for each in (one, other))
    return torch.minimum(*torch.broadcast_tensors(*bounds))
