"""Slow float64 oracles, written from the papers' formulas; they import nothing of ours.

Everything is explicit: one score at a time where it helps reading, positions as plain integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor


def rotation(position: int, inv_freq: Tensor, dim: int, layout: str) -> Tensor:
    """Return the rotation matrix of one position, [dim, dim] float64 (RoFormer, eq. 15 and 16)."""
    matrix = torch.eye(dim, dtype=torch.float64)
    half = len(inv_freq)
    for pair, frequency in enumerate(inv_freq.double().tolist()):
        angle = torch.tensor(position * frequency, dtype=torch.float64)
        one, two = (pair, pair + half) if layout == "half" else (2 * pair, 2 * pair + 1)
        matrix[one, one] = matrix[two, two] = angle.cos()
        matrix[one, two], matrix[two, one] = -angle.sin(), angle.sin()
    return matrix


class Rotary:
    """Rotates vectors to positions by explicit matrices, remembered per position."""

    def __init__(self, inv_freq: Tensor, layout: str = "half") -> None:
        self.inv_freq, self.layout = inv_freq, layout
        self.seen: dict[tuple[int, int], Tensor] = {}

    def __call__(self, vector: Tensor, position: int) -> Tensor:
        key = (position, len(vector))
        if key not in self.seen:
            self.seen[key] = rotation(position, self.inv_freq, len(vector), self.layout)
        return self.seen[key] @ vector


def unmoved(vector: Tensor, position: int) -> Tensor:
    """Stand in for `Rotary` in a layer without positions."""
    return vector


def rotary_of(geometry: Geometry | None) -> Callable[[Tensor, int], Tensor]:
    """Return what puts a vector at a position; anything with `inv_freq` and `layout`, or None."""
    return unmoved if geometry is None else Rotary(geometry.inv_freq, geometry.layout)


def cap_softly(score: Tensor, softcap: float | None) -> Tensor:
    """Return `cap * tanh(score / cap)` (Gemma 2, section 2), or the score where there is no cap."""
    return score if softcap is None else softcap * torch.tanh(score / softcap)


def softmax_read(scores: list[float], values: list[Tensor]) -> Tensor:
    """Return the softmax-weighted sum of values; zero for no values."""
    weights = torch.softmax(torch.tensor(scores, dtype=torch.float64), 0)
    return (weights[:, None] * torch.stack(values)).sum(0)


Seen = Callable[[int], list[tuple[int, int]]]  # by row: the keys that it sees, and their distances


def seen_in_window(window: int | None = None) -> Seen:
    """Return what rows see of a plain text, or of one where they see the last `window` tokens."""
    return lambda i: [(j, i - j) for j in range(i + 1) if window is None or i - j < window]


def seen_by_lambda(first: int, window: int, cap: int) -> Seen:
    """Return what rows see by LM-Infinite: what is near, and first tokens at one distance."""

    def seen(i: int) -> list[tuple[int, int]]:
        near = [(j, i - j) for j in range(i + 1) if i - j < window]
        return near + [(j, cap) for j in range(min(first, i + 1)) if i - j >= window]

    return seen


def seen_by_groups(source: int, offset: int, read: list[int]) -> Seen:
    """Return what rows see by group positions; the first rows are the source's.

    read  by target token, how many source tokens have been read
    """

    def seen(i: int) -> list[tuple[int, int]]:
        if i < source:
            return [(j, i - j) for j in range(i + 1)]
        t = i - source
        from_source = [(j, offset + t - j) for j in range(read[t])]
        return from_source + [(source + s, t - s) for s in range(t + 1)]

    return seen


def seen_in_parallel(prefix: int, lengths: list[int]) -> Seen:
    """Return what rows see by parallel encoding: documents all begin behind the prefix.

    lengths  tokens of each document
    """
    first = [prefix + sum(lengths[:d]) for d in range(len(lengths) + 1)]

    def seen(i: int) -> list[tuple[int, int]]:
        if i < prefix:
            return [(j, i - j) for j in range(i + 1)]
        if i >= first[-1]:
            place = prefix + max(lengths) + i - first[-1]
            found = [(j, place - j) for j in range(prefix)]
            for d, length in enumerate(lengths):
                found += [(first[d] + t, place - (prefix + t)) for t in range(length)]
            return found + [(j, i - j) for j in range(first[-1], i + 1)]
        own = max(d for d in range(len(lengths)) if first[d] <= i)
        place = prefix + i - first[own]
        return [(j, place - j) for j in range(prefix)] + [
            (j, i - j) for j in range(first[own], i + 1)
        ]

    return seen


def attention_at(
    vectors: tuple[Tensor, Tensor, Tensor],
    seen: Seen,
    rotary: Callable[[Tensor, int], Tensor],
    scaling: float,
    softcap: float | None = None,
) -> Tensor:
    """Attend to keys at given distances.

    vectors  queries, keys and values, [1, heads, tokens, dim] each, not rotated
    returns  [heads, tokens, dim] float64

    A score is `(R(distance) q) k`, since `<R(p) q, R(s) k>` depends on `p - s` alone.
    """
    query, key, value = (each[0].double() for each in vectors)
    heads, tokens, _ = query.shape
    group = heads // key.shape[0]
    output = torch.zeros_like(query)
    for head in range(heads):
        q, k, v = query[head], key[head // group], value[head // group]
        for row in range(tokens):
            keys, distances = zip(*seen(row), strict=True)
            turned = torch.stack([rotary(q[row], distance) for distance in distances])
            scores = cap_softly((turned * k[list(keys)]).sum(-1) * scaling, softcap)
            output[head, row] = torch.softmax(scores, 0) @ v[list(keys)]
    return output


class PineOracle:
    """PINE as the spec words it: keys are placed at positions, one query row at a time.

    prefix, lengths  tokens of the prefix and of each document
    rotary           how a vector is put at a position: a `Rotary`, or `unmoved`
    """

    def __init__(
        self,
        prefix: int,
        lengths: list[int],
        rotary: Callable[[Tensor, int], Tensor],
        scaling: float,
        softcap: float | None = None,
    ) -> None:
        self.prefix, self.lengths, self.rotary, self.scaling = prefix, lengths, rotary, scaling
        self.softcap = softcap
        self.end = prefix + sum(lengths)
        self.first = [prefix + sum(lengths[:d]) for d in range(len(lengths))]

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return every row's output: [heads, tokens, dim] of un-rotated inputs."""
        heads, tokens, _ = query.shape
        group = heads // key.shape[0]
        output = torch.zeros_like(query, dtype=torch.float64)
        for head in range(heads):
            q, k, v = (t.double() for t in (query[head], key[head // group], value[head // group]))
            rows = self.prefix_rows() + self.document_rows(q, k) + self.suffix_rows(q, k, tokens)
            for row, position, seen in rows:
                turned = self.rotary(q[row], position)
                products = [turned @ self.rotary(k[s], at) * self.scaling for s, at in seen]
                scores = [float(cap_softly(product, self.softcap)) for product in products]
                output[head, row] = softmax_read(scores, [v[s] for s, _ in seen])
        return output

    def prefix_rows(self) -> list[tuple[int, int, list[tuple[int, int]]]]:
        return [(row, row, [(s, s) for s in range(row + 1)]) for row in range(self.prefix)]

    def document_rows(self, q: Tensor, k: Tensor) -> list[tuple[int, int, list[tuple[int, int]]]]:
        rows = []
        for i, length in enumerate(self.lengths):
            order = self.order_for_document(q, k, i)
            start = self.placed(order)
            seen = [(s, s) for s in range(self.prefix)]
            for d in order[1:]:
                seen += [(self.first[d] + t, start[d] + t) for t in range(self.lengths[d])]
            for t in range(length):
                own = [(self.first[i] + s, start[i] + s) for s in range(t + 1)]
                rows.append((self.first[i] + t, self.end - length + t, seen + own))
        return rows

    def suffix_rows(
        self, q: Tensor, k: Tensor, tokens: int
    ) -> list[tuple[int, int, list[tuple[int, int]]]]:
        rows = []
        for row in range(self.end, tokens):
            importance = self.importance(q[row], k, range(len(self.lengths)))
            order = sorted(importance, key=lambda d: -importance[d])
            start = self.placed(order)
            seen = [(s, s) for s in range(self.prefix)]
            for d in order:
                seen += [(self.first[d] + t, start[d] + t) for t in range(self.lengths[d])]
            rows.append((row, row, seen + [(s, s) for s in range(self.end, row + 1)]))
        return rows

    def order_for_document(self, q: Tensor, k: Tensor, i: int) -> list[int]:
        """Return documents by rank for the rows of document i: itself, then by importance."""
        others = [d for d in range(len(self.lengths)) if d != i]
        total = dict.fromkeys(others, 0.0)
        for t in range(self.lengths[i]):
            for d, weight in self.importance(q[self.first[i] + t], k, others).items():
                total[d] += weight
        return [i, *sorted(others, key=lambda d: -total[d])]

    def importance(self, q: Tensor, k: Tensor, documents: Iterable[int]) -> dict[int, float]:
        """Return mean attention per token of each document, without positions."""
        listed = list(documents)
        if not listed:
            return {}
        slots = [self.first[d] + t for d in listed for t in range(self.lengths[d])]
        weights = torch.softmax(cap_softly((k[slots] @ q) * self.scaling, self.softcap), 0)
        shares = weights.split([self.lengths[d] for d in listed])
        return {
            d: float(share.sum()) / self.lengths[d] for d, share in zip(listed, shares, strict=True)
        }

    def placed(self, order: list[int]) -> dict[int, int]:
        """Return where each document starts if the first of `order` ends at `end - 1`."""
        start, end = {}, self.end
        for d in order:
            end -= self.lengths[d]
            start[d] = end
        return start


class Segments(Protocol):
    """What is asked of a sequence's segments."""

    @property
    def prefix(self) -> Sequence[int]: ...
    @property
    def lengths(self) -> Sequence[int]: ...


class Geometry(Protocol):
    """What is asked of a layer's rotation."""

    @property
    def inv_freq(self) -> Tensor: ...
    @property
    def layout(self) -> str: ...


class Layer(Protocol):
    """What is asked of a layer."""

    @property
    def geometry(self) -> Geometry | None: ...
    @property
    def scaling(self) -> float: ...
    @property
    def softcap(self) -> float | None: ...


class OracleReading:
    """The PINE oracle behind the door of a float64 model: one prefill, batch of one."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return every row's output, [batch, heads, tokens, dim] of un-rotated inputs."""
        oracle = PineOracle(
            len(self.segments.prefix),
            list(self.segments.lengths),
            rotary_of(layer.geometry),
            layer.scaling,
            layer.softcap,
        )
        return oracle.attention(query[0], key[0], value[0])[None]


class EditedOracle:
    """A text that is edited, in one layer: each token's key and value as computed last, no slots.

    rotary  how a query is turned by a distance: a `Rotary`, or `unmoved`
    """

    def __init__(
        self,
        rotary: Callable[[Tensor, int], Tensor],
        scaling: float,
        softcap: float | None = None,
    ) -> None:
        self.rotary, self.scaling, self.softcap = rotary, scaling, softcap
        self.tokens: list[tuple[Tensor, Tensor] | None] = []

    def edit(self, start: int, stop: int, count: int) -> None:
        """Put tokens that have not been computed in the place of some."""
        self.tokens[start:stop] = [None] * count

    def read(self, indices: Sequence[int], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute some tokens, ascending, and return what they read, [heads, query, dim] float64.

        query, key, value  [heads or key heads, query, dim], not rotated
        """
        for row, index in enumerate(indices):
            self.tokens[index] = key[:, row].double(), value[:, row].double()
        output = torch.zeros_like(query, dtype=torch.float64)
        group = query.shape[0] // key.shape[0]
        for row, index in enumerate(indices):
            seen = [token for token in self.tokens[: index + 1] if token is not None]
            assert len(seen) == index + 1, "what stands before is computed before"
            for head in range(query.shape[0]):
                scores = []
                for at, (keys, _) in enumerate(seen):
                    turned = self.rotary(query[head, row].double(), index - at)
                    product = turned @ keys[head // group] * self.scaling
                    scores.append(float(cap_softly(product, self.softcap)))
                output[head, row] = softmax_read(scores, [v[head // group] for _, v in seen])
        return output


def stale_tokens(history: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> list[int]:
    """Return which tokens of a text are not what computing all of it now would make them.

    history  what was done: ("put", [start, stop], ids) and ("compute", indices, [])

    What a token says is its id, and what all before it said when it was computed: spelled out.
    """
    ids, says = list[int](), list[object]()
    for what, where, new in history:
        if what == "put":
            ids[where[0] : where[1]] = new
            says[where[0] : where[1]] = [None] * len(new)
            continue
        for index in where:
            says[index] = (ids[index], hash(tuple(says[:index])))
    right = list[object]()
    for one in ids:
        right.append((one, hash(tuple(right))))
    pairs = enumerate(zip(says, right, strict=True))
    return [index for index, (own, other) in pairs if own is not None and own != other]
