"""The law's one noun: a sight, where a span appears to a query; and rows of queries that look.

A reading answers a forward with rows. It multiplies nothing; an executor attends (DESIGN 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from kvedit.spans import Span, SpanSet
from kvedit.visibility import Visibility, everything


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Where one span appears to some rows, and which of its tokens they see.

    start    position of the origin of the span's frame: one for all rows, or int64 that broadcasts
             to [batch, heads, query]
    away     tokens from the origin to every row, whatever its place; then `start` does not count
    visible  by how far a row is from a token where it is: counted from `start` if that is a number,
             else from position 0
    """

    span: Span
    start: int | Tensor = 0
    visible: Visibility = everything
    away: int | None = None

    def own(self, place: int | Tensor) -> int | Tensor:
        """Return the indices in the span's frame of rows that stand at some places."""
        return place - self.start if self.fixed and isinstance(self.start, int) else place

    def distance(self, place: int | Tensor) -> int | Tensor:
        """Return how far the frame's origin is from rows at some places."""
        return place - self.start if self.away is None else self.away

    @property
    def fixed(self) -> bool:
        """Return whether the span stands at one place for all rows."""
        return self.away is None and isinstance(self.start, int)

    def after(self, skipped: int) -> Sight:
        """Return what the rows behind the first ones look at."""
        start, visible = self.start, self.visible.after(skipped)
        if isinstance(start, Tensor) and start.dim() and start.shape[-1] > 1:
            start = start[..., skipped:]
        if start is self.start and visible is self.visible:
            return self
        return replace(self, start=start, visible=visible)


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Spans that appear in the order of their weight: the heaviest ends at `end`, and so on.

    spans  whole, wherever they are: all their tokens are seen
    end    position after the nearest span's last token: at most that of the first row, and at least
           the tokens of all spans, so that none begins before position 0
    own    the span that the rows are part of: it is nearest and seen causally, and the others are
           ranked once, by what all its rows give them; None = each row ranks all for itself
    told   is given every weight by which rows rank, [batch, heads, query, spans], or None

    Weights are as `kvedit.ranking` says: mean attention per token, positions left out.
    """

    spans: SpanSet
    end: int
    own: int | None = None
    told: Callable[[Tensor], None] | None = None


Sights = tuple[Sight | Ranked, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some of a forward's new tokens, where they stand, and what they look at.

    tokens  their rows among the queries
    place   position of the first; the others follow
    sights  disjoint; each row sees at least itself
    """

    tokens: slice
    place: int
    sights: Sights

    @property
    def count(self) -> int:
        """Return how many tokens these are."""
        return int(self.tokens.stop - self.tokens.start)

    def moved(self, by: int) -> Rows:
        """Return the same rows among other queries."""
        tokens = slice(self.tokens.start + by, self.tokens.stop + by)
        return Rows(tokens, self.place, self.sights)

    def last(self, count: int) -> Rows:
        """Return the last of them."""
        skipped = self.count - count
        tokens = slice(self.tokens.start + skipped, self.tokens.stop)
        sights = self.sights
        if skipped:
            sights = tuple(
                each.after(skipped) if isinstance(each, Sight) else each for each in sights
            )
        return Rows(tokens, self.place + skipped, sights)
