"""A root-mean-square norm in one pass, in place of six of torch's."""

from __future__ import annotations

from torch import Tensor, nn

from kvedit.kernels.weights import DTYPES

SHARED = 16  # rows from which on all threads norm


class Norm(nn.Module):
    """A norm: `weight * row / sqrt(mean(row^2) + eps)`.

    stock  the model's own, which it stands for
    """

    stock: nn.Module

    def __init__(self, stock: nn.Module, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        from kvedit.kernels.loops import NormTask, norm  # needs numba

        self.weight, self.eps = weight, eps
        self._run, self.width = norm, weight.shape[0]
        self._task = NormTask(
            weight=weight.data_ptr(),
            width=weight.shape[0],
            half=weight.dtype.itemsize == 2,
            eps=eps,
        )
        self.__dict__["stock"] = stock  # no child: its weight is this one's
        self.dtype = weight.dtype

    @classmethod
    def of(cls, layer: nn.Module) -> Norm | None:
        """Return what may stand for a layer, if it looks like a norm."""
        weight = getattr(layer, "weight", None)
        eps = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
        if "RMSNorm" not in type(layer).__name__ or not isinstance(eps, float):
            return None
        if not isinstance(weight, nn.Parameter) or weight.dtype not in DTYPES:
            return None
        known = weight.device.type == "cpu" and weight.dim() == 1 and weight.is_contiguous()
        return cls(layer, weight, eps) if known else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return normed rows, [any, width]."""
        if hidden_states.dtype is not self.dtype:
            return self.stock(hidden_states)  # type: ignore[no-any-return]
        rows = hidden_states.contiguous()
        normed, count = rows.new_empty(rows.shape), rows.numel() // self.width
        task = self._task
        task.inputs, task.output, task.rows = rows.data_ptr(), normed.data_ptr(), count
        self._run(task, team=count >= SHARED)
        return normed
