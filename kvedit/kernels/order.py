"""The order of oneDNN's packed weights that our loops can read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

BLOCK = 64  # outputs that lie together


@dataclass(frozen=True, slots=True)
class Order:
    """Blocks of 64 outputs: for each input, or pair of them, all outputs of the block.

    pairs  whether two inputs lie side by side, as half types have it

    Input 5 of output 70 is in block 1 of `padded * 64` numbers, at 5 * 64 + 6, or with pairs at
    (2 * 64 + 6) * 2 + 1.
    """

    pairs: bool

    def look_up(self, flat: Tensor, outputs: Tensor, inputs: int, padded: int) -> Tensor:
        """Return the weights of some outputs.

        flat     [blocks * padded * 64]
        outputs  [any] int64
        inputs   of the layer; `padded`, with the zeros behind them
        returns  [any, inputs]
        """
        width = 2 if self.pairs else 1
        blocks = flat.view(-1, padded // width, BLOCK, width)
        found = blocks[outputs // BLOCK, :, outputs % BLOCK]
        return found.flatten(-2)[..., :inputs]
