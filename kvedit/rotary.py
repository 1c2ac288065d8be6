"""Rotary positions: one geometry per layer, and the turn that all techniques share.

Su et al., "RoFormer" (arXiv 2104.09864), eq. 34: `<R(p) q, R(s) k>` depends on `p - s` alone. A
turn is written as in that equation: every dimension times a cosine, plus its partner times a sine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor

Layout = Literal["half", "interleaved"]
Phases = tuple[Tensor, Tensor]
Places = Sequence[Sequence[int]]

TABLE_STEP = 1024  # positions by which a table grows
TABLE_REACH = 16384  # positions that a table holds at most: 16 MB for 128 dimensions


@dataclass(frozen=True, slots=True, eq=False)
class RotaryGeometry:
    """How one layer turns its queries and keys.

    inv_freq  [width / 2] float32, radians per token; on the layer's device, as all that is turned
    layout    "half": dimension j turns with j + width / 2 (Llama)
              "interleaved": dimension 2j turns with 2j + 1 (GLM)
    pairs     [width] int64, the dimension that each one turns with, on the CPU

    Dimensions beyond `width = 2 * len(inv_freq)` carry no position (partial rotary).
    """

    inv_freq: Tensor
    layout: Layout = "half"
    pairs: Tensor = field(init=False, repr=False)
    _table: list[Tensor] = field(default_factory=list, init=False, repr=False)
    _far: list[Any] = field(default_factory=lambda: [None, None], init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", self.partner(torch.arange(self.width)))

    @property
    def width(self) -> int:
        """Return how many leading dimensions turn."""
        return 2 * self.inv_freq.shape[-1]

    def on(self, device: torch.device) -> RotaryGeometry:
        """Return the same geometry for a layer on some device: itself, if it is there."""
        if self.inv_freq.device == device:
            return self
        return RotaryGeometry(self.inv_freq.to(device), self.layout)

    def phases(self, positions: Tensor) -> Phases:
        """Return cosine and signed sine of the angles at some positions, for each dimension.

        positions  [...] tokens, any sign
        returns    two of [..., width] float32 (float64 if `inv_freq` is)

        Angles are float32 products, as the model was trained with; but from `TABLE_REACH` on they
        are exact, since there a rounded one is off by more than a score may be.
        """
        near, far = self.trained_angles(positions), self._exact_angles(positions)
        return self._phases(near.where((positions.abs() < TABLE_REACH)[..., None], far))

    def trained_angles(self, positions: Tensor) -> Tensor:
        """Return angles as transformers computes them, [..., width / 2]."""
        return positions[..., None].to(self.inv_freq.dtype) * self.inv_freq

    def _exact_angles(self, positions: Tensor) -> Tensor:
        angles = positions[..., None].double() * self.inv_freq.double()
        return angles.remainder_(2 * torch.pi).to(self.inv_freq.dtype)

    def _phases(self, angles: Tensor) -> Phases:
        cos, sin = angles.cos(), angles.sin()
        return self._spread(cos, cos), self._spread(-sin, sin)

    def looked_up(self, positions: Tensor, reach: int) -> Phases:
        """Return the same from a table: decoding asks for few positions at a time, often.

        positions  [...] tokens, int64, from 0 to below `reach`
        """
        if reach > TABLE_REACH:
            return self.phases(positions)
        found = self.table(reach).index_select(0, positions.reshape(-1))
        return self._halves(found.view(*positions.shape, 2 * self.width))

    def rows_at(self, positions: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """Return a table, [rows, 2 * width] as `table`, and the row of each position, contiguous.

        positions  [...] tokens, int64, from 0 to below `reach`
        """
        if reach <= TABLE_REACH:
            return positions.contiguous(), self.table(reach)
        rows = torch.arange(positions.numel(), device=positions.device).view(positions.shape)
        return rows, torch.cat(self.phases(positions.flatten()), -1)

    def rows_of(self, places: Sequence[Sequence[int]], reach: int) -> tuple[Tensor, Places]:
        """Return a table, [rows, 2 * width] as `table`, and for lists of positions their rows.

        reach  positions that the table has besides, where it can
        """
        wanted = [place for each in places for place in each]
        last = max(wanted)
        if min(wanted) >= 0 and last < TABLE_REACH:
            return self.table(min(max(reach, last + 1), TABLE_REACH)), places
        if self._far[0] != wanted:  # all layers of a step ask for the same
            where = torch.tensor(wanted, device=self.inv_freq.device)
            self._far[:] = [wanted, torch.cat(self.phases(where), -1)]
        numbers = count()
        return self._far[1], [[next(numbers) for _ in each] for each in places]

    def table(self, reach: int) -> Tensor:
        """Return the phases of `reach` positions or more, of at most `TABLE_REACH`.

        returns  [positions, 2 * width] cosine, then signed sine
        """
        if not self._table or self._table[0].shape[0] < reach:
            size = -(-reach // TABLE_STEP) * TABLE_STEP
            places = torch.arange(size, device=self.inv_freq.device)
            self._table[:] = [torch.cat(self._phases(self.trained_angles(places)), -1)]
        return self._table[0]

    def between(self, first: int, last: int) -> Phases:
        """Return the phases of the positions from first to before last: [last - first, width]."""
        if first < 0 or last > TABLE_REACH:
            return self.phases(torch.arange(first, last, device=self.inv_freq.device))
        return self._halves(self.table(last)[first:last])

    def partner(self, vectors: Tensor) -> Tensor:
        """Return for each dimension the one that it turns with: [..., width], another tensor."""
        half = self.width // 2
        if self.layout == "half":
            return torch.cat((vectors[..., half : 2 * half], vectors[..., :half]), -1)
        pairs = vectors[..., : 2 * half].reshape(*vectors.shape[:-1], half, 2)
        return pairs.flip(-1).flatten(-2)

    def rotate(self, vectors: Tensor, phases: Phases, partner: Tensor | None = None) -> Tensor:
        """Turn vectors by phases that are already known (RoFormer, eq. 34).

        vectors  [..., dim] any float dtype; computed in the phases' dtype
        phases   two of [..., width], broadcast against the vectors
        partner  as `partner` returns it, where one vector turns often; in the phases' dtype
        returns  [..., dim] in the broadcast shape, dtype of the vectors
        """
        cos, sin = phases
        wide = vectors.to(cos.dtype)
        turning = wide if wide.shape[-1] == self.width else wide[..., : self.width]
        # out of place: fewer and cheaper calls than into views of one buffer, which decoding feels
        turned = (turning * cos).addcmul_(self.partner(wide) if partner is None else partner, sin)
        if wide.shape[-1] > self.width:
            rest = wide[..., self.width :]
            turned = torch.cat((turned, rest.expand(*turned.shape[:-1], -1)), -1)
        return turned.to(vectors.dtype)

    def turn(self, vectors: Tensor, positions: Tensor, reach: int | None = None) -> Tensor:
        """Turn vectors by positions, in float32 (RoFormer, eq. 34).

        vectors    [..., dim]
        positions  [...] tokens, broadcast against the vectors' leading axes
        reach      where given, positions are int64 from 0 to below it: they are looked up
        returns    [..., dim], dtype of the vectors

        Turning by `a`, then by `b`, is turning by `a + b`, up to rounding.
        """
        phases = self.phases(positions) if reach is None else self.looked_up(positions, reach)
        return self.rotate(vectors, phases)

    def _spread(self, first: Tensor, second: Tensor) -> Tensor:
        """Give the two dimensions of each pair their numbers: two of [..., width / 2]."""
        if self.layout == "half":
            return torch.cat((first, second), -1)
        return torch.stack((first, second), -1).flatten(-2)

    def _halves(self, rows: Tensor) -> Phases:
        return rows[..., : self.width], rows[..., self.width :]


def turn_as_trained(geometry: RotaryGeometry | None, vectors: Tensor, positions: Tensor) -> Tensor:
    """Turn vectors by angles that are rounded at any position, as the stock model does it."""
    if geometry is None:
        return vectors
    return geometry.rotate(vectors, geometry._phases(geometry.trained_angles(positions)))


def turn(
    geometry: RotaryGeometry | None, vectors: Tensor, positions: Tensor, reach: int | None = None
) -> Tensor:
    """Turn vectors by positions, or leave them where the layer has no positions."""
    return vectors if geometry is None else geometry.turn(vectors, positions, reach)
