"""The authors' own PINE (float32, batch of one): logits of every token, orders, greedy tokens."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from oracles import OracleReading
from transformers import AutoModelForCausalLM

from kvedit.hf import Door, open_door
from pine import cpu, document_rows, groups, order
from pine.cpu import document_rows as compiled
from pine.explanation import Explanation
from pine.reading import Pine
from pine.segments import Segments

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "pine"
TOLERANCE = 2e-5

pytestmark = [
    pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not beside the project"),
    pytest.mark.parametrize("family", ["llama", "qwen2"]),
    pytest.mark.parametrize("prompt", ["p2", "p3", "p5"]),
]


def door_of(family: str, dtype: torch.dtype = torch.float32) -> Door:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / f"tiny-{family}", dtype=dtype)
    door = open_door(model.eval())
    assert door.refusal is None
    return door


def golden(family: str, prompt: str) -> tuple[Segments, dict[str, np.ndarray]]:
    """Return the prompt as the authors had it, and their arrays."""
    found = json.loads((GOLDEN / f"{family}.json").read_text())["prompts"][prompt]
    segments = Segments(
        tuple(found["prefix_ids"]),
        tuple(tuple(ids) for ids in found["segments"]),
        tuple(found["suffix_ids"]),
    )
    return segments, dict(np.load(GOLDEN / f"{family}-{prompt}.npz"))


def rows_of_caller(segments: Segments) -> list[int]:
    """Return for each token of the caller's prompt its row in the canonical one."""
    first, rows = len(segments.prefix), list(range(len(segments.prefix)))
    starts = {}
    for place, length in enumerate(segments.lengths):
        starts[segments.order[place]] = (first, length)
        first += length
    for document in range(len(starts)):
        begin, length = starts[document]
        rows += range(begin, begin + length)
    return rows + list(range(first, len(segments.ids)))


@torch.inference_mode()
def test_logits_of_every_token_and_greedy_tokens(family: str, prompt: str) -> None:
    segments, expected = golden(family, prompt)
    segments = segments.canonical()
    door, reading = door_of(family), Pine(segments)
    prefill = door.forward(torch.tensor([segments.ids]), reading, keep=0)[0]
    in_order = prefill[rows_of_caller(segments)].numpy()
    np.testing.assert_allclose(in_order, expected["logits_all"], atol=TOLERANCE, rtol=0)
    logits, tokens = prefill[-1], []
    for step in range(16):
        np.testing.assert_allclose(logits, expected["greedy_logits"][step], atol=TOLERANCE, rtol=0)
        tokens.append(int(logits.argmax()))
        logits = door.forward(torch.tensor([[tokens[-1]]]), reading)[0, -1]
    assert tokens == expected["greedy_tokens"].tolist()


@pytest.mark.parametrize("path", [compiled, document_rows], ids=["compiled", "torch"])
@torch.inference_mode()
def test_importance_and_orders(
    family: str, prompt: str, path: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sort of prefill and decode, as it is made; documents in the caller's order."""
    segments, expected = golden(family, prompt)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(weight: torch.Tensor) -> torch.Tensor:
        ranked = order.nearest_first(weight)
        seen.append((weight.clone(), ranked))
        return ranked

    if path is document_rows:
        monkeypatch.setattr(cpu, "available", lambda query: False)
    monkeypatch.setattr(path, "nearest_first", spy)
    monkeypatch.setattr(groups, "BUDGET", 1)  # one sort per query document
    monkeypatch.setattr(Explanation, "add", lambda self, weight: spy(weight))
    door, pine = door_of(family), Pine(segments, explain=True)
    door.forward(torch.tensor([segments.ids]), pine, keep=0)
    for token in expected["greedy_tokens"][:-1]:
        door.forward(torch.tensor([[int(token)]]), pine)
    documents, layers = len(segments.documents), 2
    per_layer = documents + 1  # one sort per query document, one for the suffix rows
    for layer in range(layers):
        sorts = seen[layer * per_layer : (layer + 1) * per_layer]
        for document in range(documents):
            if documents > 2:  # with two, the authors have nothing to sort and keep no order
                weight, ranked = (found[None, :, 0] for found in sorts[document])
                order_segments = expected["order_segments"][layer, :, document]
                assert ranked[0].tolist() == order_segments.tolist()
                others = [d for d in range(documents) if d != document]
                scores = expected["score_segments"][layer, :, document][:, others]
                np.testing.assert_allclose(weight[0][:, others], scores, rtol=1e-3)
        weight, ranked = sorts[documents]
        assert ranked[0].tolist() == expected["order_suffix"][layer].tolist()
        np.testing.assert_allclose(weight[0], expected["score_suffix"][layer], rtol=1e-3)
    steps = seen[layers * per_layer :]
    for number, (weight, ranked) in enumerate(steps):
        step, layer = divmod(number, layers)
        assert ranked[0, :, 0].tolist() == expected["order_decode"][step, layer].tolist()
        np.testing.assert_allclose(
            weight[0, :, 0], expected["score_decode"][step, layer], rtol=1e-3
        )
    assert len(steps) == 15 * layers


@torch.inference_mode()
def test_the_oracle_agrees_with_the_authors(family: str, prompt: str) -> None:
    segments, expected = golden(family, prompt)
    door = door_of(family, torch.float64)
    logits = door.forward(torch.tensor([segments.ids]), OracleReading(segments), keep=0)[0]
    np.testing.assert_allclose(logits.numpy(), expected["logits_all"], atol=TOLERANCE, rtol=0)
