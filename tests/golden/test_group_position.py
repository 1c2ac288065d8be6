"""The authors' own group positions (float32): in one batch, by wait-k's mask, and streamed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from reads import each_executor
from transformers import AutoModelForCausalLM

from kvedit.executors import Executor
from kvedit.executors.choice import Choice
from kvedit.executors.torch import TorchExecutor
from kvedit.group_position import GroupPositionReading
from kvedit.hf import Door, open_door

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "gpe"
SOURCE, TARGET, WAIT = 20, 10, 2
WIDENED = 6  # source tokens that the first target token sees when it is streamed
TOLERANCE = 2e-5

pytestmark = [
    pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not beside the project"),
    pytest.mark.parametrize("offset", [0, 32]),
]
Golden = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model_door() -> Door:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN, dtype=torch.float32)
    opened = open_door(model.eval(), TorchExecutor())
    assert opened.refusal is None
    return opened


@pytest.fixture
def door(model_door: Door, executor: Executor) -> Door:
    return Door(model_door.model, model_door.layers, Choice(executor, {}), None)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return dict(np.load(GOLDEN / "golden.npz"))


def ids(golden: Golden) -> torch.Tensor:
    return torch.tensor(golden["input_ids"]).view(1, -1)


@torch.inference_mode()
def at_once(door: Door, golden: Golden, offset: int, seen: list[int]) -> np.ndarray:
    """Return the logits of all tokens, read in one forward."""
    reading = GroupPositionReading(offset, seen)
    reading.feed(SOURCE)
    logits: np.ndarray = door.forward(ids(golden), reading, 0)[0].numpy()
    return logits


def counts(golden: Golden) -> list[int]:
    """Return how many source tokens each target token sees by wait-k."""
    allowed = golden["waitk_allowed_mask"].astype(bool)[SOURCE:, :SOURCE]
    return [int(count) for count in allowed.sum(1)]


@each_executor
def test_the_whole_source_is_seen(door: Door, golden: Golden, offset: int) -> None:
    found = at_once(door, golden, offset, [])
    expected = golden[f"group_batch_logits_phi{offset}"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@each_executor
def test_wait_k_as_a_number_of_source_tokens(door: Door, golden: Golden, offset: int) -> None:
    found = at_once(door, golden, offset, counts(golden))
    expected = golden[f"waitk_mask_logits_phi{offset}"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@dataclass
class Stream:
    """Source and target words that are read and written in turn (wait-k)."""

    door: Door
    golden: Golden
    reading: GroupPositionReading
    read: int = 0  # source tokens
    written: int = 0  # target tokens
    logits: dict[int, np.ndarray] = field(default_factory=dict)

    def run(self) -> np.ndarray:
        """Read instruction and k words, then write a word and read one; return target logits.

        The last token of a word predicts the next one, so it is fed again once more is read. The
        first target segment is the template's: with it the first word is asked for.
        """
        source = iter(self.golden["source_seg_len"].tolist())
        for _ in range(1 + WAIT):
            self.take(source)
        begin, *words, end = self.golden["target_seg_len"].tolist()
        self.write(begin)
        for word in words:
            self.write(word)
            self.take(source)
            self.reading.retract(1)
            self.written -= 1
            self.write(1)
        self.write(end)
        return np.stack([self.logits[token] for token in range(TARGET)])

    def take(self, source: Iterator[int]) -> None:
        """Read a source word, if there is one."""
        count = next(source, 0)
        if count:
            self.reading.feed(count)
            self.forward(slice(self.read, self.read + count))
            self.read += count
        self.reading.feed(0)

    def write(self, count: int) -> None:
        """Write target tokens one by one."""
        for place in range(self.written, self.written + count):
            self.logits[place] = self.forward(slice(SOURCE + place, SOURCE + place + 1))
        self.written += count

    def forward(self, tokens: slice) -> np.ndarray:
        """Return the logits of the last of some tokens."""
        logits = self.door.forward(ids(self.golden)[:, tokens], self.reading)
        last: np.ndarray = logits[0, -1].numpy()
        return last


@each_executor
@torch.inference_mode()
def test_streamed_word_by_word(door: Door, golden: Golden, offset: int) -> None:
    stream = Stream(door, golden, GroupPositionReading(offset))
    expected = golden[f"stream_stepwise_phi{offset}"]
    np.testing.assert_allclose(stream.run(), expected, atol=TOLERANCE, rtol=0)
    report = stream.reading.report()
    assert report == {"group-positions": {"source": stream.read, "target": TARGET}}
    assert stream.read == 16  # the target ends before the source


@each_executor
def test_a_stream_is_a_batch_whose_first_target_token_sees_more(
    door: Door, golden: Golden, offset: int
) -> None:
    found = at_once(door, golden, offset, [WIDENED, *counts(golden)[1:]])[SOURCE:]
    expected = golden[f"stream_stepwise_phi{offset}"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@each_executor
def test_the_offset_and_the_mask_matter(door: Door, golden: Golden, offset: int) -> None:
    """The planted faults: what the vectors would miss if they could not fail."""
    expected = golden[f"waitk_mask_logits_phi{offset}"]
    moved = at_once(door, golden, offset + 1, counts(golden))
    wide = at_once(door, golden, offset, [])
    assert np.abs(moved - expected).max() > 0.05
    assert np.abs(wide - expected).max() > 0.05
