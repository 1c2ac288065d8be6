"""The projections of an attention layer: in one call, and not rotated where nobody wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from kvedit.kernels.linear import packed_of
from kvedit.kernels.weights import Packed, Products

# layers of transformers that project, norm the heads if they have norms for it, rotate, attend and
# project, and do nothing else; the gate of `kvedit.hf` measures that this holds
KNOWN = frozenset(
    f"{name}Attention"
    for name in ("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe", "Granite")
)
ASKED = ("q_proj", "k_proj", "v_proj")

Attend = Callable[..., tuple[Tensor, Tensor | None]]


class Attention(nn.Module):
    """An attention layer that asks a reader itself.

    stock   the model's own, which does whatever goes without a reader
    attend  the attention function of `kvedit.hf`
    """

    def __init__(
        self,
        stock: nn.Module,
        attend: Attend,
        packed: Sequence[tuple[Packed, Tensor | None]],
    ) -> None:
        super().__init__()
        self.stock = stock
        self._attend, self._dim = attend, int(stock.head_dim)  # type: ignore[arg-type]
        self._linear = tuple(getattr(stock, name) for name in (*ASKED, "o_proj"))
        self._norms = getattr(stock, "q_norm", None), getattr(stock, "k_norm", None)
        self._options = {"scaling": stock.scaling}
        if hasattr(stock, "sliding_window"):
            self._options["sliding_window"] = stock.sliding_window
        self._few = 0
        self._products: Products | None = None
        if packed:
            weights, biases = zip(*packed, strict=True)
            self._few = min(each.few for each in weights)
            self._products = Products(weights, biases)

    @classmethod
    def of(cls, layer: nn.Module, attend: Attend) -> Attention | None:
        """Return what may stand for a layer, if it is a known one."""
        if type(layer).__name__ not in KNOWN:
            return None
        found = [packed_of(getattr(layer, name)) for name in ASKED]
        packed = [each for each in found if each is not None]
        return cls(layer, attend, packed if len(packed) == len(found) else ())

    def forward(self, hidden_states: Tensor, **rest: Any) -> tuple[Tensor, Tensor | None]:
        """Attend; signature of transformers' attention layers."""
        if rest.get("reader") is None:
            return self.stock(hidden_states, **rest)  # type: ignore[no-any-return]
        rest.pop("position_embeddings", None)
        rest.pop("past_key_values", None)
        axes = hidden_states.shape[:-1]
        query, key, value = (
            each.view(*axes, -1, self._dim) for each in self._ask(hidden_states, axes.numel())
        )
        for_query, for_key = self._norms
        query = query if for_query is None else for_query(query)
        key = key if for_key is None else for_key(key)
        read, weights = self._attend(
            self.stock,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            **self._options,
            **rest,
        )
        return self._linear[3](read.reshape(*axes, -1)), weights

    def _ask(self, hidden_states: Tensor, count: int) -> list[Tensor]:
        if self._products is not None and count <= self._few:
            return self._products.multiply(hidden_states, count)
        return [project(hidden_states) for project in self._linear[:3]]
