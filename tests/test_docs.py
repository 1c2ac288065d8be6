"""What the documents show runs as it stands there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from oracles import Rotary, attention_at, seen_in_window
from torch import Tensor

from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.reading import Layer, LayerKind, Reading, between, whole_text
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.together import Alone
from kvedit.visibility import causal, within

DOCS = Path(__file__).parents[1] / "docs"
KNOWN = (Any, LayerKind, Layer, Mapping, Rows, Sequence, Sight, Span, Tensor, causal, within)
INV_FREQ = 10000.0 ** (-torch.arange(0, 8, 2).float() / 8)


def shown(name: str) -> dict[str, Any]:
    """Return what the first listing of a document defines."""
    listing = re.search(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    assert listing is not None
    defined: dict[str, Any] = {**globals(), "whole_text": whole_text, "between": between}
    exec(listing[1], defined)
    return defined


def test_the_reading_that_is_shown_is_a_window() -> None:
    layer = Layer(0, RotaryGeometry(INV_FREQ), 0.4)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 12, 8, generator=generator) for heads in (4, 2, 2))
    qkv = query, key, value
    reading: Reading = shown("add-a-technique.md")["WindowReading"](5)
    reader = Alone(reading, CpuExecutor())
    pieces = [[each[:, :, rows] for each in qkv] for rows in (slice(0, 7), slice(7, 12))]
    found = torch.cat([reader.read(layer, *piece) for piece in pieces], 2)[0].double()
    expected = attention_at(qkv, seen_in_window(5), Rotary(INV_FREQ), 0.4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert reading.suits([LayerKind(RotaryGeometry(INV_FREQ), 16)]) is not None
