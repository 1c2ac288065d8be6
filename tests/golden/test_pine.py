"""The authors' own PINE (float32, batch of one): logits of every token, orders, greedy tokens."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import OracleReading
from reads import each_executor
from torch import Tensor
from transformers import AutoModelForCausalLM

from kvedit.executors import Executor
from kvedit.executors import torch as specification
from kvedit.executors.cpu import groups, joint
from kvedit.executors.torch import TorchExecutor
from kvedit.hf import Door, open_door
from kvedit.ranking import nearest_first
from kvedit.segments import Segments
from pine.explanation import Explanation
from pine.reading import PineReading

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "pine"
TOLERANCE = 2e-5

pytestmark = [
    pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not beside the project"),
    pytest.mark.parametrize("family", ["llama", "qwen2"]),
    pytest.mark.parametrize("prompt", ["p2", "p3", "p5"]),
]


def door_of(family: str, executor: Executor, dtype: torch.dtype = torch.float32) -> Door:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / f"tiny-{family}", dtype=dtype)
    door = open_door(model.eval(), executor)
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


@each_executor
@torch.inference_mode()
def test_logits_of_every_token_and_greedy_tokens(
    executor: Executor, family: str, prompt: str
) -> None:
    segments, expected = golden(family, prompt)
    segments = segments.canonical()
    door, reading = door_of(family, executor), PineReading(segments)
    prefill = door.forward(torch.tensor([segments.ids]), reading, keep=0)[0]
    in_order = prefill[rows_of_caller(segments)].numpy()
    np.testing.assert_allclose(in_order, expected["logits_all"], atol=TOLERANCE, rtol=0)
    logits, tokens = prefill[-1], []
    for step in range(16):
        np.testing.assert_allclose(logits, expected["greedy_logits"][step], atol=TOLERANCE, rtol=0)
        tokens.append(int(logits.argmax()))
        logits = door.forward(torch.tensor([[tokens[-1]]]), reading)[0, -1]
    assert tokens == expected["greedy_tokens"].tolist()


Sort = tuple[Tensor, Tensor]  # weights, and what `nearest_first` makes of them


def by_documents(executor: Executor, seen: list[Sort], patch: pytest.MonkeyPatch) -> None:
    """Note each sort that is made for a document's rows."""

    def spy(weight: Tensor) -> Tensor:
        ranked = nearest_first(weight)
        own = weight.isinf().any()  # the suffix's rows have no document of their own
        if own:
            seen.append((weight.clone(), ranked))
        return ranked

    patch.setattr(
        specification if isinstance(executor, TorchExecutor) else joint, "nearest_first", spy
    )


def by_rows(seen: list[Sort]) -> Callable[[object, Tensor], None]:
    """Return what notes each sort that is told of: that of suffix rows."""
    return lambda _, weight: seen.append((weight.clone(), nearest_first(weight)))


@each_executor
@torch.inference_mode()
def test_importance_and_orders(
    executor: Executor, family: str, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sort of prefill and decode, as it is made; documents in the caller's order."""
    segments, expected = golden(family, prompt)
    own, suffix = list[Sort](), list[Sort]()
    door = door_of(family, executor)
    by_documents(executor, own, monkeypatch)
    monkeypatch.setattr(groups, "BUDGET", 1)  # one sort per query document
    monkeypatch.setattr(Explanation, "add", by_rows(suffix))
    pine = PineReading(segments, explain=True)
    door.forward(torch.tensor([segments.ids]), pine, keep=0)
    for token in expected["greedy_tokens"][:-1]:
        door.forward(torch.tensor([[int(token)]]), pine)
    count, layers = len(segments.documents), 2
    assert len(own) == count * layers
    for place, (weight, ranked) in enumerate(own):
        layer, document = divmod(place, count)
        if count == 2:  # with two, the authors have nothing to sort and keep no order
            continue
        weight, ranked = (each.view(1, -1, count) for each in (weight, ranked))
        assert ranked[0].tolist() == expected["order_segments"][layer, :, document].tolist()
        others = [d for d in range(count) if d != document]
        scores = expected["score_segments"][layer, :, document][:, others]
        np.testing.assert_allclose(weight[0][:, others], scores, rtol=1e-3)
    for layer, (weight, ranked) in enumerate(suffix[:layers]):
        assert ranked[0].tolist() == expected["order_suffix"][layer].tolist()
        np.testing.assert_allclose(weight[0], expected["score_suffix"][layer], rtol=1e-3)
    for number, (weight, ranked) in enumerate(suffix[layers:]):
        step, layer = divmod(number, layers)
        assert ranked[0, :, 0].tolist() == expected["order_decode"][step, layer].tolist()
        scores = expected["score_decode"][step, layer]
        np.testing.assert_allclose(weight[0, :, 0], scores, rtol=1e-3)
    assert len(suffix) == (1 + 15) * layers


@torch.inference_mode()
def test_the_oracle_agrees_with_the_authors(family: str, prompt: str) -> None:
    segments, expected = golden(family, prompt)
    door = door_of(family, TorchExecutor(), torch.float64)
    logits = door.run(torch.tensor([segments.ids]), OracleReading(segments), keep=0)[0]
    np.testing.assert_allclose(logits.numpy(), expected["logits_all"], atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_the_executor_that_is_chosen_agrees_too(family: str, prompt: str) -> None:
    segments, expected = golden(family, prompt)
    door = door_of(family, TorchExecutor())
    chosen = replace(door, choice=open_door(door.model).choice)
    assert chosen.executor.name == "cpu"
    logits = chosen.forward(torch.tensor([segments.ids]), PineReading(segments), keep=0)[0]
    np.testing.assert_allclose(logits, expected["logits_all"], atol=TOLERANCE, rtol=0)
