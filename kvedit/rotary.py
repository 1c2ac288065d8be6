"""Rotary positions: one geometry per layer, and the turn that all techniques share.

Su et al., "RoFormer" (arXiv 2104.09864), eq. 34: `<R(p) q, R(s) k>` depends on `p - s` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["half", "interleaved"]


@dataclass(frozen=True, slots=True, eq=False)
class RotaryGeometry:
    """How one layer turns its queries and keys.

    inv_freq  [width / 2] float32, radians per token
    layout    "half": dimension j turns with j + width / 2 (Llama)
              "interleaved": dimension 2j turns with 2j + 1 (GLM)

    Dimensions beyond `width = 2 * len(inv_freq)` carry no position (partial rotary).
    """

    inv_freq: Tensor
    layout: Layout = "half"

    @property
    def width(self) -> int:
        """Return how many leading dimensions turn."""
        return 2 * self.inv_freq.shape[-1]

    def phases(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of the angles at some positions.

        positions  [...] tokens, any sign
        returns    two of [..., width / 2] float32 (float64 if `inv_freq` is)
        """
        angles = positions[..., None].to(self.inv_freq.dtype) * self.inv_freq
        return angles.cos(), angles.sin()

    def rotate(self, vectors: Tensor, phases: tuple[Tensor, Tensor]) -> Tensor:
        """Turn vectors by phases that are already known (RoFormer, eq. 34).

        vectors  [..., dim] any float dtype; computed in the phases' dtype
        phases   two of [..., width / 2], broadcast against the vectors
        returns  [..., dim] in the broadcast shape, dtype of the vectors
        """
        cos, sin = phases
        half = cos.shape[-1]
        turning = vectors[..., : 2 * half].to(cos.dtype)
        if self.layout == "half":
            first, second = turning[..., :half], turning[..., half:]
        else:
            first, second = turning[..., 0::2], turning[..., 1::2]
        # out of place: fewer and cheaper calls than into views of one buffer, which decoding feels
        low = (first * cos).addcmul_(second, sin, value=-1)
        high = (second * cos).addcmul_(first, sin)
        if self.layout == "half":
            turned = torch.cat((low, high), -1)
        else:
            turned = torch.stack((low, high), -1).flatten(-2)
        if vectors.shape[-1] > 2 * half:
            rest = vectors[..., 2 * half :].to(cos.dtype)
            turned = torch.cat((turned, rest.expand(*turned.shape[:-1], -1)), -1)
        return turned.to(vectors.dtype)

    def turn(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Turn vectors by positions, in float32 (RoFormer, eq. 34).

        vectors    [..., dim]
        positions  [...] tokens, broadcast against the vectors' leading axes
        returns    [..., dim], dtype of the vectors

        Turning by `a`, then by `b`, is turning by `a + b`, up to rounding.
        """
        return self.rotate(vectors, self.phases(positions))


def turn(geometry: RotaryGeometry | None, vectors: Tensor, positions: Tensor) -> Tensor:
    """Turn vectors by positions, or leave them where the layer has no positions."""
    return vectors if geometry is None else geometry.turn(vectors, positions)
