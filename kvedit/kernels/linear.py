"""Layers whose weights a kernel holds, in the places of torch's own."""

from __future__ import annotations

from torch import Tensor, nn

from kvedit.kernels.weights import Packed, Weights


class Linear(nn.Module):
    """A linear layer whose weights a kernel holds.

    weights  [outputs, inputs]
    bias     [outputs], or None
    head     whether its outputs are logits: these are float32 where the kernel sums so and there
             are few rows, since bfloat16 has steps of 1/8 at 20, and a judge's margins are less
    """

    _bias: Tensor | None

    def __init__(
        self, weights: Weights, bias: Tensor | None, shape: tuple[int, int], *, head: bool = False
    ) -> None:
        super().__init__()
        self.weights = weights
        self.head = head
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, False))
        self.__dict__["_bias"] = bias  # a step asks for it often, and a module looks for long
        self.out_features, self.in_features = shape

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as `nn.Linear` calls it
        """Return the product.

        input    [any, inputs]
        returns  [any, outputs]
        """
        return self.weights.multiply(input, self._bias)

    def hold(self, weights: Weights) -> None:
        """Take the weights that a kernel holds."""
        self.weights = weights.unrounded() if self.head and isinstance(weights, Packed) else weights

    def extra_repr(self) -> str:
        """Return what is shown of it."""
        return f"{self.in_features}, {self.out_features}, {type(self.weights).__name__.lower()}"


class Embedding(nn.Module):
    """An embedding whose weights a linear layer shares, and a kernel holds."""

    def __init__(self, weights: Weights, shape: tuple[int, int]) -> None:
        super().__init__()
        self.weights = weights
        self.num_embeddings, self.embedding_dim = shape

    def hold(self, weights: Weights) -> None:
        """Take the weights that a kernel holds."""
        self.weights = weights

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as `nn.Embedding` calls it
        """Return the vectors of tokens, [any, dim]."""
        return self.weights.look_up(input)


def packed_of(layer: nn.Module | None) -> tuple[Packed, Tensor | None] | None:
    """Return a layer's weights and bias if our own loops can multiply with them, or None."""
    if not isinstance(layer, Linear):
        return None
    weights = layer.weights
    return (weights, layer._bias) if isinstance(weights, Packed) and weights.few else None
