"""How important documents were: means over suffix rows, heads and layers, in the caller's order."""

import pytest
import torch
from models import tiny_llama
from reads import HALF, Vectors, each_executor, read, vectors

from kvedit.executors import Executor
from kvedit.hf import open_door
from kvedit.reading import Layer
from kvedit.segments import Segments
from pine.explanation import Explanation
from pine.reading import PineReading

DOCUMENTS = tuple(tuple(range(d, d + 20 + d)) for d in range(5))


def test_it_is_the_mean_over_all_rows_in_the_callers_order() -> None:
    explanation = Explanation()
    assert explanation.in_order([1, 0]) == []
    explanation.add(torch.tensor([[[[0.2, 0.4]], [[0.4, 0.8]]]]))
    explanation.add(torch.tensor([[[[0.6, 0.0]]]]))
    assert explanation.in_order([1, 0]) == pytest.approx([0.4, 0.4])
    explanation.add(torch.tensor([[[[0.0, 0.8]]]]))
    assert explanation.in_order([1, 0]) == pytest.approx([0.5, 0.3])


def importance(qkv: Vectors, prefix: int, lengths: tuple[int, ...], scaling: float) -> list[float]:
    """Return mean attention per document token of suffix rows, positions left out, in float64."""
    query, key = (each[0].double() for each in qkv[:2])
    end = prefix + sum(lengths)
    scores = query[:, end:] @ key[:, prefix:end].repeat_interleave(2, 0).transpose(1, 2) * scaling
    parts = scores.softmax(-1).split(lengths, -1)
    return [float(part.mean()) for part in parts]


@each_executor
def test_importance_is_told_in_prefill_and_in_decoding(executor: Executor) -> None:
    lengths, qkv = (30, 20, 41), vectors(3 + 91 + 2 + 3)
    documents = tuple((place,) * length for place, length in enumerate(lengths))
    reading = PineReading(Segments((9,) * 3, documents, (9,) * 2), explain=True)
    read(executor, reading, Layer(0, HALF, 0.5), qkv, (96, 1, 1, 1))
    expected = importance(qkv, 3, lengths, 0.5)
    assert reading.report()["pine"]["importance"] == pytest.approx(expected, rel=1e-5)


@each_executor
def test_rows_that_nobody_reads_are_counted_all_the_same(executor: Executor) -> None:
    """Behind a prompt's last layer only its last token's logits are wanted."""
    lengths, qkv = (30, 20, 41), vectors(3 + 91 + 5)
    documents = tuple((place,) * length for place, length in enumerate(lengths))
    reading = PineReading(Segments((9,) * 3, documents, (9,) * 5), explain=True)
    read(executor, reading, Layer(0, HALF, 0.5, tail=1), qkv, (99,))
    expected = importance(qkv, 3, lengths, 0.5)
    assert reading.report()["pine"]["importance"] == pytest.approx(expected, rel=1e-5)


@torch.inference_mode()
def test_importance_is_told_in_the_callers_order() -> None:
    door, found = open_door(tiny_llama()), []
    for documents in (DOCUMENTS, DOCUMENTS[3:] + DOCUMENTS[:3]):
        segments = Segments((1, 2), documents, (3, 8, 2)).canonical()
        reading = PineReading(segments, explain=True)
        door.forward(torch.tensor([segments.ids]), reading)
        found.append(reading.report()["pine"]["importance"])
    assert found[1] == found[0][3:] + found[0][:3]
    # softmax weights over all document tokens sum to one per row; these are means per token
    lengths = [len(document) for document in DOCUMENTS]
    total = sum(share * length for share, length in zip(found[0], lengths, strict=True))
    assert abs(total - 1) < 1e-5
    assert "importance" not in PineReading(segments).report()["pine"]
