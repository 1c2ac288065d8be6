"""How the kernels cut their work: tiles of query tokens, pieces of keys, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvedit.pages import Pages

PIECE = 256  # tokens: a split of a decode step reads one piece or several
ROWS, WIDTH = 128, 256  # the largest tile: 128 queries of 256 bytes, which 128 bfloat16 fill
ROOMY = 160_000  # bytes of shared memory that it takes: A100, H100 and later, not their small kin


@dataclass(frozen=True, slots=True)
class Tile:
    """The shape of the tiles of one launch.

    rows, keys  tokens of a tile of queries and of keys: powers of two, at least 16
    warps       of 32 threads, per program
    stages      tiles of keys and values in flight
    """

    rows: int
    keys: int
    warps: int
    stages: int

    @classmethod
    def of(cls, query: Tensor, rows: int, keys: int) -> Tile:
        """Choose for queries, [batch, heads, query, dim], that ask `rows` at a time of `keys`."""
        width = query.element_size() * power_of_two(query.shape[-1])  # bytes of a key
        most = ROWS * WIDTH // max(width, WIDTH)
        room = shared_memory(query.device)
        if room < ROOMY or query.element_size() > 2:  # float32 has no tensor core: registers fill
            most //= 2
        rows, keys = min(most, power_of_two(rows)), min(most // 2, power_of_two(keys))
        large = rows * width >= ROWS * WIDTH // 2
        return cls(rows, max(16, keys), 8 if large else 4, 3 if room >= ROOMY else 2)


@dataclass(frozen=True, slots=True, eq=False)
class Tiling:
    """The cut of one set of spans, the same for all layers and decode steps; int32 on the device.

    sizes        tokens of each span
    lengths      [spans] the same
    first_slot   [spans] where each span's keys begin among the slots
    first_token  [spans] where its queries begin, if all spans ask one after the other
    pieces       [pieces, 3] span, first slot, and tokens: spans of 300 and 10 tokens at slots 0 and
                 320 are 0 0 256, 0 256 44, 1 320 10

    It does not hold the pages: an executor keeps it for as long as somebody else does.
    """

    sizes: tuple[int, ...]
    lengths: Tensor
    first_slot: Tensor
    first_token: Tensor
    pieces: Tensor
    asking: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, pages: Pages) -> Tiling:
        """Cut spans that lie in pages."""
        sizes, slots = pages.sizes, [each.start for each in pages.bounds]
        before = [sum(sizes[:span]) for span in range(len(sizes))]
        pieces = [
            (span, slots[span] + at, min(PIECE, size - at))
            for span, size in enumerate(sizes)
            for at in range(0, size, PIECE)
        ]
        device = pages.lengths.device
        lengths, first_slot, first_token = _on(device, [sizes, slots, before])
        return cls(sizes, lengths, first_slot, first_token, _on(device, pieces))

    def tiles(self, rows: int) -> Tensor:
        """Return the tiles in which all spans ask, [2, tiles]: the span, and its first token."""
        if rows not in self.asking:
            spans = enumerate(self.sizes)
            tiles = [(span, at) for span, size in spans for at in range(0, size, rows)]
            self.asking[rows] = _on(self.lengths.device, tiles).T.contiguous()
        return self.asking[rows]


def _on(device: torch.device, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32, device=device)


def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that one program may use."""
    if device.type != "cuda":
        return ROOMY  # the interpreter takes any tile
    properties = torch.cuda.get_device_properties(device)
    return int(
        getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    )


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least a number, and 16."""
    return max(16, 1 << (number - 1).bit_length())
