"""What the executor of a CPU keeps between reads."""

from __future__ import annotations

import gc

import torch

from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.pages import Pages
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span, SpanSet
from kvedit.visibility import causal


def test_a_set_is_forgotten_with_its_pages() -> None:
    """A cut that held the pages would keep them, and so itself, for ever."""
    executor, geometry = CpuExecutor(), RotaryGeometry(100.0 ** (-torch.arange(4).float() / 4))
    spans = SpanSet(Pages((3, 4), torch.device("cpu")), geometry)
    spans.fill(torch.randn(1, 1, 7, 8), torch.randn(1, 1, 7, 8))
    own = Span(geometry)
    own.append(torch.randn(1, 1, 2, 8), torch.randn(1, 1, 2, 8))
    rows = [Rows(slice(0, 2), 7, (Ranked(spans, 7), Sight(own, 7, causal)))]
    executor.read(Layer(0, geometry, 0.5), torch.randn(1, 2, 2, 8), rows)
    assert len(executor._cuts) == 1
    del spans, rows
    gc.collect()
    assert not executor._cuts
