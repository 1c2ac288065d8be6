"""Hunks: what of a tokenised text became what, found in the ids.

Both texts are tokenised whole: tokens that were spliced together are often not those of the text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

JOIN = 8  # kept tokens; fewer between two hunks make one of them
DEPTH = 8  # gaps within gaps that are looked into: the work stays within as many passes


@dataclass(frozen=True, slots=True)
class Hunk:
    """Old tokens from `start` to before `stop` become `ids`: 3, 5, (9,) puts one for two."""

    start: int
    stop: int
    ids: tuple[int, ...]

    @property
    def change(self) -> int:
        """Return by how many tokens what follows moves."""
        return len(self.ids) - (self.stop - self.start)


@dataclass(frozen=True, slots=True)
class _Gap:
    """What is not kept so far: old tokens first to before last, and new ones."""

    old: range
    new: range

    def within(self, old: tuple[int, int], new: tuple[int, int]) -> _Gap:
        return _Gap(range(*old), range(*new))


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    most = min(len(one), len(other))
    return next((at for at, (each, found) in pairs if each != found), most)


def hunks(old: Sequence[int], new: Sequence[int], join: int = JOIN) -> tuple[Hunk, ...]:
    """Return what of the old tokens became what, ascending, in old indices.

    join     kept tokens, 1 or more; hunks with fewer between them are one, so only runs of as many
             are looked for
    returns  () for equal texts; applied to the old tokens, they give the new ones

    What both begin and end with is kept. Between, runs of `join` tokens that stand as often in
    each text, the first for the first, are kept where their order is the same (patience diff: the
    longest such list), and what is equal around them; then the gaps between are looked into in the
    same way. So time is near-linear, whatever the texts, and what repeats without end is one hunk.
    """
    gaps = [_trimmed(old, new, _Gap(range(len(old)), range(len(new))))]
    for _ in range(DEPTH):
        split = (each for gap in gaps for each in _split(old, new, gap, join))
        finer = [each for each in split if each.old or each.new]
        if finer == gaps:
            break
        gaps = finer
    return tuple(
        Hunk(gap.old.start, gap.old.stop, tuple(new[gap.new.start : gap.new.stop])) for gap in gaps
    )


def apply(ids: Sequence[int], changes: Sequence[Hunk]) -> list[int]:
    """Return what tokens become by hunks, which are ascending and in old indices."""
    found, done = list[int](), 0
    for hunk in changes:
        found += ids[done : hunk.start]
        found += hunk.ids
        done = hunk.stop
    return [*found, *ids[done:]]


def _trimmed(old: Sequence[int], new: Sequence[int], gap: _Gap) -> _Gap:
    """Leave out what both sides of a gap begin and end with."""
    (a, b), (c, d) = (gap.old.start, gap.old.stop), (gap.new.start, gap.new.stop)
    while a < b and c < d and old[a] == new[c]:
        a, c = a + 1, c + 1
    while a < b and c < d and old[b - 1] == new[d - 1]:
        b, d = b - 1, d - 1
    return gap.within((a, b), (c, d))


def _split(old: Sequence[int], new: Sequence[int], gap: _Gap, join: int) -> Iterator[_Gap]:
    """Yield what is left of a gap once the runs that both have are kept."""
    a, c = gap.old.start, gap.new.start
    for at, to in _anchors(old, new, gap, join):
        if at < a or to < c:
            continue  # within the run that was kept last
        yield _trimmed(old, new, gap.within((a, at), (c, to)))
        a, c = at + join, to + join
        while a < gap.old.stop and c < gap.new.stop and old[a] == new[c]:
            a, c = a + 1, c + 1
    yield _trimmed(old, new, gap.within((a, gap.old.stop), (c, gap.new.stop)))


def _anchors(old: Sequence[int], new: Sequence[int], gap: _Gap, size: int) -> list[tuple[int, int]]:
    """Return where runs stand that both sides have as often, ascending, as many as can be."""
    if len(gap.old) < size or len(gap.new) < size:
        return []
    before, after = (_places(ids, own, size) for ids, own in ((old, gap.old), (new, gap.new)))
    pairs = [
        pair
        for run, places in before.items()
        if len(places) == len(after.get(run, ()))
        for pair in zip(places, after[run], strict=True)
    ]
    return _ascending(sorted(pairs, key=lambda pair: pair[1]))


def _places(ids: Sequence[int], within: range, size: int) -> dict[tuple[int, ...], list[int]]:
    """Return by run of so many tokens where it stands."""
    found = defaultdict[tuple[int, ...], list[int]](list)
    for start in range(within.start, within.stop - size + 1):
        found[tuple(ids[start : start + size])].append(start)
    return found


def _ascending(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest list of pairs, ascending in the second, that ascends in the first too.

    (5, 0) (1, 1) (2, 2) gives (1, 1) (2, 2): of each length, the list with the lowest end is known.
    """
    ends, tops, before = list[int](), list[int](), list[int]()
    for index, (first, _) in enumerate(pairs):
        length = bisect_left(ends, first)
        before.append(tops[length - 1] if length else -1)
        ends[length : length + 1] = [first]
        tops[length : length + 1] = [index]
    found, index = list[tuple[int, int]](), tops[-1] if tops else -1
    while index >= 0:
        found.append(pairs[index])
        index = before[index]
    return found[::-1]
