"""The gate: with which geometry, if any, readings reproduce a model. Decided by measurement.

A stock pass with widely spread positions is watched, then repeated with position ids of zero and
the recorded outputs in place of attention, so that every layer of the second pass gets the very
inputs of the first. Each layer is then compared on its own, to the rounding of its dtype: which
candidate turns its raw queries and keys into the stock ones, and whether our attention of those
gives the stock output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry, turn_as_trained
from kvedit.state import attend, scores

# allowed errors, in units of the dtype's rounding
ROUNDINGS = 32  # of attention, relative to the greatest entry; more where scores are large
TURN_ROUNDINGS = 5  # of queries and keys, relative to the greatest entry of the same dimension,
LOGIT_ROUNDINGS = 256  # of logits, which have gone through all layers,
NUDGES = 32  # or as many times what a nudge of the embeddings by one rounding does to them,
LOGIT_ERROR = 0.125  # but never more than this share of the greatest logit


class RefusedError(Exception):
    """The model cannot be read through the door; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one layer of the stock model had and made.

    query, output     [batch, heads, query, dim]
    key, value        [batch, kv_heads, query, dim]
    visible           [batch, 1, query, query] bool, as the model gave it; None = causal
    window            tokens that a row sees, as the model says, or None
    scaling, softcap  of the scores
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    visible: Tensor | None
    window: int | None
    scaling: float
    softcap: float | None


class Watch:
    """Records every attention layer of one stock pass."""

    def __init__(self) -> None:
        self.layers: dict[int, Seen] = {}

    def see(self, index: int, seen: Seen) -> None:
        """Remember one layer."""
        self.layers[index] = seen


class Measuring:
    """A reader that attends to nothing: it finds each layer's geometry and replays the stock pass.

    positions   [query] of the stock pass
    candidates  geometries to try, in order, wherever they are; None = no positions
    found       by layer, on its device: the same object for all layers there that share one
    """

    def __init__(
        self,
        watched: Mapping[int, Seen],
        positions: Tensor,
        candidates: Sequence[RotaryGeometry | None],
    ) -> None:
        self.found: dict[int, RotaryGeometry | None] = {}
        self._watched = watched
        self._positions = positions
        self._candidates = candidates
        self._on: dict[torch.device, list[RotaryGeometry | None]] = {}  # the candidates

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compare, and return the stock output (see `kvedit.together.Alone.read`)."""
        stock = self._watched[layer.index]
        if query.shape[-1] != value.shape[-1] or query.shape[1] % key.shape[1]:
            raise RefusedError(f"layer {layer.index} has keys and values of different widths")
        positions = self._positions.to(query.device)
        state = attend(
            stock.query,
            stock.key,
            stock.value,
            layer.scaling,
            visible=causal_mask(positions, positions),
            softcap=layer.softcap,
        )
        off = error(state.output, stock.output)
        if not off <= ROUNDINGS * _score_rounding(layer, stock):
            raise RefusedError(f"layer {layer.index} is not plain softmax attention")
        self.found[layer.index] = self._geometry(layer.index, stock, query, key)
        return stock.output

    def _geometry(
        self, index: int, stock: Seen, query: Tensor, key: Tensor
    ) -> RotaryGeometry | None:
        allowed = TURN_ROUNDINGS * rounding(query.dtype)
        positions = self._positions.to(query.device)
        least = torch.inf
        for candidate in self._candidates_on(query.device):
            worst = max(
                turn_error(turn_as_trained(candidate, raw, positions), raw, expected)
                for raw, expected in ((query, stock.query), (key, stock.key))
            )
            if worst <= allowed:
                return candidate
            least = min(least, worst)
        raise RefusedError(
            f"no rotary layout reproduces the queries and keys of layer {index} "
            f"(the best one is off by {least:.1g} of a dimension's greatest entry)"
        )

    def _candidates_on(self, device: torch.device) -> list[RotaryGeometry | None]:
        """Return the candidates on a layer's device."""
        if device not in self._on:
            self._on[device] = [each and each.on(device) for each in self._candidates]
        return self._on[device]


def causal_mask(query: Tensor, kv: Tensor) -> Tensor:
    """Return where a query sees a key: at its own position and before.

    query    [query] positions, tokens
    kv       [kv] positions, tokens
    returns  [query, kv] bool
    """
    return query[:, None] >= kv[None, :]


def compare(what: str, logits: Tensor, expected: Tensor, nudged: Tensor) -> None:
    """Raise `RefusedError` unless logits agree to rounding.

    nudged  the expected logits after a nudge of the embeddings by one rounding: trained models have
            scores in the thousands, whose rounding is seen in the logits
    """
    off, noise = error(logits, expected), error(nudged, expected)
    allowed = max(LOGIT_ROUNDINGS * rounding(logits.dtype), NUDGES * noise)
    if not off <= min(allowed, LOGIT_ERROR):
        raise RefusedError(f"{what} is off by {off:.1g} of the model's greatest logit")


def error(found: Tensor, expected: Tensor) -> float:
    """Return the greatest difference relative to the greatest expected entry."""
    exact = expected.double()
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30))


def turn_error(turned: Tensor, raw: Tensor, expected: Tensor) -> float:
    """Return the greatest difference relative to the greatest entry of its head and dimension.

    turned, raw, expected  [batch, heads, query, dim]

    Trained keys have dimensions a hundred times the others, where a fault in all others would hide.
    """
    off = (turned.double() - expected.double()).abs().amax(-2)
    scale = torch.maximum(raw.double().abs(), expected.double().abs()).amax(-2)
    return float((off / scale.clamp_min(1e-30)).max())


def rounding(dtype: torch.dtype) -> float:
    """Return the rounding unit of a reading in some dtype: turns are made in float32 at best."""
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def spread_positions(count: int, limit: int, device: torch.device) -> Tensor:
    """Return ascending positions over a model's whole range, so that slow frequencies show too.

    count    how many
    limit    the model's trained length, tokens
    returns  [count] int64
    """
    last = max(limit - 1, count - 1)
    return torch.linspace(0, last, count, dtype=torch.float64, device=device).round().long()


def _score_rounding(layer: Layer, stock: Seen) -> float:
    """Return the rounding of attention's output: that of its dtype, and of its float32 scores."""
    product = scores(stock.query, stock.key, layer.scaling, layer.softcap)
    greatest = float(product.abs().max())
    return rounding(stock.query.dtype) + greatest * torch.finfo(torch.float32).eps
