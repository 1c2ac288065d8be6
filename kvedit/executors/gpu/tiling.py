"""How the kernels cut one prompt: tiles of query tokens, pieces of keys, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

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
class Plan:
    """The cut of one prompt, the same for all layers and decode steps; int32 on the device.

    sizes           tokens of each document
    prefix          tokens before the documents
    tile            the shape in which document tokens ask
    lengths         [documents] tokens
    first_slot      [documents] where each document's keys begin among the slots
    first_token     [documents] where its queries begin among the document tokens
    tile_document   [tiles] whose tokens each tile holds
    tile_first      [tiles] the place in it of the tile's first token
    piece_document  [pieces] whose tokens each piece of keys holds
    piece_first     [pieces] its first slot
    piece_count     [pieces] its tokens
    """

    sizes: tuple[int, ...]
    prefix: int
    tile: Tile
    lengths: Tensor
    first_slot: Tensor
    first_token: Tensor
    tile_document: Tensor
    tile_first: Tensor
    piece_document: Tensor
    piece_first: Tensor
    piece_count: Tensor

    @classmethod
    def of(cls, prefix: int, sizes: Sequence[int], slots: Sequence[int], query: Tensor) -> Plan:
        """Cut a prompt.

        sizes  tokens of each document
        slots  where each document's keys begin
        query  [batch, heads, query, dim] of the first layer: its device, dtype and width
        """
        tokens = sum(sizes)
        tile = Tile.of(query, max(sizes), tokens // len(sizes))
        tiles = [(d, t) for d, size in enumerate(sizes) for t in range(0, size, tile.rows)]
        pieces = [(d, t) for d, size in enumerate(sizes) for t in range(0, size, PIECE)]
        before = [sum(sizes[:d]) for d in range(len(sizes))]
        columns = [
            list(sizes),
            list(slots),
            before,
            [d for d, _ in tiles],
            [t for _, t in tiles],
            [d for d, _ in pieces],
            [slots[d] + t for d, t in pieces],
            [min(PIECE, sizes[d] - t) for d, t in pieces],
        ]
        packed = torch.tensor(list(chain(*columns)), dtype=torch.int32, device=query.device)
        parts = torch.split(packed, [len(column) for column in columns])
        return cls(tuple(sizes), prefix, tile, *parts)

    @property
    def end(self) -> int:
        """Return the position of the first suffix token."""
        return self.prefix + sum(self.sizes)


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
