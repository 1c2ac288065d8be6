"""A gated layer of few rows in one call: `down(silu(gate(row)) * up(row))`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kvedit.kernels.linear import packed_of
from kvedit.kernels.weights import Packed


class Gated(nn.Module):
    """A gated layer, whose weights are packed.

    stock  the model's own, which reads more rows
    """

    def __init__(self, stock: nn.Module, gate: Packed, up: Packed, down: Packed) -> None:
        super().__init__()
        from kvedit.kernels.loops import GatedTask, gated  # needs numba

        self.stock = stock
        self._run, self._few = gated, min(gate.few, up.few, down.few)
        self._kept = gate, up, down
        self.width, self.dtype, self._outputs = gate.inputs, gate.dtype, down.outputs
        self._scratch = torch.zeros(self._few, down.padded)
        self._task = GatedTask(
            gate=gate.address,
            up=up.address,
            down=down.address,
            scratch=self._scratch.data_ptr(),
            width=gate.inputs,
            padded=gate.padded,
            inner=gate.outputs,
            deep=down.padded,
            outputs=down.outputs,
            half=gate.dtype.itemsize == 2,
        )

    @classmethod
    def of(cls, layer: nn.Module) -> Gated | None:
        """Return what may stand for a layer, if it looks like a gated one."""
        packed: list[Packed] = []
        for name in ("gate_proj", "up_proj", "down_proj"):
            found = packed_of(getattr(layer, name, None))
            if found is None or found[1] is not None:
                return None
            packed.append(found[0])
        gate, up, down = packed
        fits = gate.padded == up.padded and gate.outputs == up.outputs == down.inputs
        return cls(layer, gate, up, down) if fits else None

    def forward(self, rows: Tensor) -> Tensor:
        """Return the layer's output, [any, width]."""
        count = rows.numel() // self.width
        if count > self._few:
            return self.stock(rows)  # type: ignore[no-any-return]
        rows = rows.contiguous()
        output = rows.new_empty((*rows.shape[:-1], self._outputs))
        task = self._task
        task.inputs, task.output, task.rows = rows.data_ptr(), output.data_ptr(), count
        self._run(task)
        return output
