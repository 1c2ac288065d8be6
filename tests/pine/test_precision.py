"""In bfloat16 and float16 the readings err no more than stock SDPA in the same dtype."""

import copy
from dataclasses import replace

import pytest
import torch
from models import in_dtype, tiny_llama
from oracles import OracleReading
from torch import Tensor

from benchmarks import precision
from benchmarks.precision import STORIES, Stock, off, rows_of
from kvedit.executors.torch import TorchExecutor
from kvedit.hf import open_door
from kvedit.reading import Layer
from kvedit.segments import Segments

MARGIN = 1.1
LOGITS_MARGIN = 1.25  # layers amplify rounding by chance, ours and stock's: medians move by a tenth
SEGMENTS = Segments((1, 2, 3), ((4, 5, 6, 7), (8, 9), (10, 11, 12, 13, 14)), (15, 16))
IDS = torch.tensor([SEGMENTS.ids])

absent = pytest.mark.skipif(not STORIES.is_dir(), reason="the model is not beside the project")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["random", "embedded", pytest.param("stories", marks=absent)])
def test_no_worse_than_stock(name: str, dtype: torch.dtype) -> None:
    rows = rows_of(name, dtype)
    assert {row.metric for row in rows} == {
        f"{reading}, {what}" for reading in ("plain", "PINE") for what in ("attention", "logits")
    }
    for row in rows:
        assert row.ratio is not None
        margin = LOGITS_MARGIN if row.metric.endswith("logits") else MARGIN
        assert row.ratio < margin, f"{row.metric}: {row.value:.2g} against {row.baseline:.2g}"


@torch.inference_mode()
def test_the_truth_is_the_oracle() -> None:
    door = open_door(in_dtype(tiny_llama(), torch.float64), TorchExecutor())
    found = door.run(IDS, Stock(SEGMENTS), keep=0)
    assert off(found, door.run(IDS, OracleReading(SEGMENTS), keep=0)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_stock_is_transformers(dtype: torch.dtype) -> None:
    """Its errors are those of transformers' own path: the same rotation, the same SDPA."""
    door = open_door(in_dtype(tiny_llama(), dtype))
    exact = replace(door, model=copy.deepcopy(door.model).double())
    truth = exact.run(IDS, Stock(), keep=0)
    theirs = off(door.model(IDS, use_cache=False).logits, truth)
    assert off(door.run(IDS, Stock(), keep=0), truth) == pytest.approx(theirs, rel=0.1)


class Coarse(Stock):
    """Stock attention with two roundings too much in every output."""

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = super().read(layer, query, key, value)
        coarse = output.float() * (1 + 2 * torch.finfo(output.dtype).eps)
        return coarse.to(output.dtype)


@torch.inference_mode()
def test_a_coarser_reading_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault."""
    monkeypatch.setattr(precision, "ours", lambda cut, executor: Coarse(cut))
    rows = {row.metric: row.ratio for row in rows_of("random", torch.bfloat16, 1)}
    ratio = rows["PINE, attention"]
    assert ratio is not None
    assert ratio > MARGIN
