"""The authors' own LM-Infinite (float32): 512 tokens of a prompt, and 8 that follow it."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from reads import each_executor
from transformers import AutoModelForCausalLM

from kvedit.executors import Executor
from kvedit.executors.torch import TorchExecutor
from kvedit.hf import Door, open_door
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "lminf"
FIRST, WINDOW, PROMPT = 8, 64, 512
TOLERANCE = 1e-4  # the authors' own is 5e-5 off float64

pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the golden vectors are not beside the project"
)


@pytest.fixture(scope="module")
def door() -> Door:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN, dtype=torch.float32)
    opened = open_door(model.eval(), TorchExecutor())
    assert opened.refusal is None
    return opened


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "golden.npz"))


def with_executor(door: Door, executor: Executor) -> Door:
    return Door(door.model, door.layers, type(door.choice)(executor, {}), None)


@torch.inference_mode()
def read(door: Door, ids: np.ndarray, reading: LmInfiniteReading) -> np.ndarray:
    """Return the logits of all tokens: the prompt as it is cut, the rest one by one."""
    tokens = torch.tensor(ids).view(1, -1)
    ends = [*(piece.start for piece in reading.pieces(PROMPT)), *range(PROMPT, tokens.shape[1] + 1)]
    pieces = [tokens[:, first:last] for first, last in pairwise(ends)]
    logits: np.ndarray = torch.cat([door.forward(piece, reading, 0) for piece in pieces], 1)[
        0
    ].numpy()
    return logits


@each_executor
@pytest.mark.parametrize("chunk", [PROMPT, 100, 64, 17])
def test_prompt_and_steps_in_any_chunks(
    executor: Executor, chunk: int, door: Door, golden: dict[str, np.ndarray]
) -> None:
    reading = LmInfiniteReading(FIRST, WINDOW, WINDOW, chunk)
    found = read(with_executor(door, executor), golden["input_ids"], reading)
    expected = np.concatenate([golden["prefill_logits"], golden["decode_logits"]])
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    exact = golden["logits_full520_f64"]
    np.testing.assert_allclose(found, exact, atol=5e-5, rtol=0)


@each_executor
@torch.inference_mode()
def test_up_to_the_window_it_is_the_model_itself(
    executor: Executor, door: Door, golden: dict[str, np.ndarray]
) -> None:
    ids = torch.tensor(golden["input_ids"])[:WINDOW].view(1, -1)
    own = with_executor(door, executor)
    found = own.forward(ids, LmInfiniteReading(FIRST, WINDOW, WINDOW), 0)[0]
    assert torch.equal(found, own.forward(ids, PlainReading(), 0)[0])
    expected = golden["vanilla_prefill_logits"][:WINDOW]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "wrong", [{"cap": WINDOW - 1}, {"first": FIRST - 1}, {"window": WINDOW - 1}]
)
def test_each_number_matters(
    wrong: dict[str, int], door: Door, golden: dict[str, np.ndarray]
) -> None:
    """The planted faults: what the vectors would miss if they could not fail."""
    numbers = {"first": FIRST, "window": WINDOW, "cap": WINDOW, **wrong}
    found = read(door, golden["input_ids"], LmInfiniteReading(**numbers))
    assert np.abs(found - golden["logits_full520_f64"]).max() > 0.1
