"""Reranking: scores are the model's own likelihoods, and what is read is one plain order."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from models import SHAPE, sharpen, tiny_llama, tiny_qwen2
from reads import close, each_executor
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from kvedit import rerank
from kvedit.executors import Executor
from kvedit.hf import Door, open_door
from kvedit.plain import PlainReading
from kvedit.rerank import RerankReading
from kvedit.segments import Ids, Segments

pytestmark = pytest.mark.usefixtures("one_thread")

DOCUMENTS = tuple(tuple(range(d, d + 9 + d)) for d in range(5))
STEPS = torch.tensor([[[5]], [[17]], [[5]]])
PROMPTS = [
    pytest.param(Segments((1, 2), DOCUMENTS, (3, 8, 2)), id="usual"),
    pytest.param(Segments((), DOCUMENTS, (3, 8, 2)), id="no prefix"),
    pytest.param(Segments((1,), ((4, 5), (), (6, 7, 8)), (3, 9)), id="an empty document"),
    pytest.param(Segments((), ((4, 5), (), (6, 7, 8)), (3, 9)), id="empty, no prefix"),
    pytest.param(Segments((1,), DOCUMENTS, tuple(range(20, 60))), id="a long question"),
]


def narrow() -> MistralForCausalLM:
    """Return a model whose rows see a window, which is shorter than a document."""
    return sharpen(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)), 3)


MODELS = [
    pytest.param(tiny_llama, id="llama"),
    pytest.param(tiny_qwen2, id="qwen2"),
    pytest.param(narrow, id="windows"),
]


@torch.inference_mode()
def read(door: Door, segments: Segments, *, last: bool = False) -> tuple[RerankReading, Tensor]:
    """Return the reading of a prompt and of three more tokens, and the logits, [4, vocab]."""
    reading = RerankReading(segments, last=last)
    ids = reading.rank(door.forward, torch.tensor([segments.ids]))
    return reading, torch.cat([door.forward(new, reading)[0] for new in (ids, *STEPS)])


@torch.inference_mode()
def likelihood(model: PreTrainedModel, before: Ids, asked: Ids) -> float:
    """Return what transformers makes of it, natural log; its first token is given."""
    ids, count = torch.tensor(before + asked), len(asked) - 1
    logits = model(ids[None]).logits[0].double().log_softmax(-1)
    return float(logits[-count - 1 : -1].gather(1, ids[-count:, None]).sum())


def scores_of(reading: RerankReading) -> list[float]:
    found: list[float] = reading.report()["rerank"]["scores"]
    return found


@pytest.mark.parametrize("segments", PROMPTS)
@pytest.mark.parametrize("build", MODELS)
@each_executor
def test_scores_and_order_are_those_of_transformers(
    executor: Executor,
    build: Callable[[], PreTrainedModel],
    segments: Segments,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rerank, "MOST_ASKED", 30)
    reading, logits = read(open_door(build(), executor), segments)
    asked = segments.suffix[-30:]
    expected = [
        likelihood(build(), segments.prefix + document, asked) for document in segments.documents
    ]
    assert scores_of(reading) == pytest.approx(expected, abs=1e-3)
    assert reading.order == tuple(sorted(range(len(expected)), key=lambda at: -expected[at]))
    ordered = segments.prefix + sum((segments.documents[at] for at in reading.order), ())
    whole = torch.tensor([[*ordered, *segments.suffix, *STEPS.flatten().tolist()]])
    with torch.inference_mode():
        close(logits, build()(whole).logits[0, -4:], 5e-5)


@pytest.mark.parametrize("together", [1, 7, 1000])
def test_how_many_are_scored_at_once_changes_no_score(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, segments = open_door(tiny_llama()), Segments((1, 2), DOCUMENTS, (3, 8, 2))
    expected = scores_of(read(door, segments)[0])
    monkeypatch.setattr(rerank, "MOST_SCORED", together)
    assert scores_of(read(door, segments)[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("last", [False, True])
@each_executor
def test_the_callers_order_changes_no_bit(executor: Executor, last: bool) -> None:
    door = open_door(tiny_llama(), executor)
    documents = (*DOCUMENTS[:3], (7,), DOCUMENTS[1])  # two are equal
    _, first = read(door, Segments((1, 2), documents, (3, 8)).canonical(), last=last)
    for sent in itertools.islice(itertools.permutations(documents), 1, 120, 23):
        segments = Segments((1, 2), sent, (3, 8)).canonical()
        reading, logits = read(door, segments, last=last)
        assert torch.equal(logits, first)
        told = reading.report()["rerank"]
        best = max(range(5), key=told["scores"].__getitem__)
        assert sent[told["order"][-1 if last else 0]] == sent[best]


@torch.inference_mode()
def test_the_order_that_is_sent_would_change_the_bits() -> None:
    """The planted fault: what the law above would miss if it could not fail."""
    door, asked = open_door(tiny_llama()), (3, 8)
    one, other = (
        door.forward(torch.tensor([[1, 2, *sum(sent, ()), *asked]]), PlainReading())
        for sent in (DOCUMENTS, DOCUMENTS[::-1])
    )
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "segments",
    [Segments((1,), (DOCUMENTS[0],), (3,)), Segments((1,), DOCUMENTS, (3,))],
    ids=["one document", "one token asked"],
)
def test_where_there_is_nothing_to_compare_the_order_is_the_canonical_one(
    segments: Segments,
) -> None:
    reading, _ = read(open_door(tiny_llama()), segments)
    assert reading.order == tuple(range(len(segments.documents)))
    assert reading.report()["rerank"]["scores"] is None
