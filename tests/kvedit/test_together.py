"""Readings side by side in one forward: each row as alone, and a row that fails fails alone."""

import pytest
import torch
from models import tiny_llama, tiny_qwen2
from transformers import DynamicCache

from kvedit.hf import open_door
from kvedit.plain import Plain
from kvedit.together import Together
from pine.reading import Pine
from pine.segments import Segments

NEAR = {"atol": 2e-5, "rtol": 0.0}
STEPS = 4


def ids(seed: int, count: int) -> torch.Tensor:
    return torch.randint(128, (1, count), generator=torch.Generator().manual_seed(seed))


def pine(seed: int, *lengths: int) -> tuple[torch.Tensor, Pine]:
    """Return a prompt of a prefix of 5, documents and a suffix of 4, and its reading."""
    prefix, *documents, suffix = (
        tuple(ids(seed + place, length)[0].tolist())
        for place, length in enumerate((5, *lengths, 4))
    )
    segments = Segments(prefix, tuple(documents), suffix).canonical()
    return torch.tensor([segments.ids]), Pine(segments)


def cast() -> list[tuple[torch.Tensor, Plain | Pine]]:
    """Return prompts of different segmentations and lengths, each with a fresh reading."""
    return [
        (ids(1, 3), Plain()),
        pine(20, 7, 7),
        (ids(2, 90), Plain()),
        pine(40, 3, 18, 1, 9),
    ]


def tokens(step: int, rows: int) -> list[torch.Tensor]:
    return list(ids(100 + step, rows).split(1, 1))


@pytest.fixture(scope="module", params=[tiny_llama, tiny_qwen2])
def door(request):
    opened = open_door(request.param())
    assert opened.refusal is None
    return opened


def alone(door) -> list[list[torch.Tensor]]:
    """Return each member's last-token logits, forward by forward, on its own."""
    found = []
    for place, (prompt, reading) in enumerate(cast()):
        pieces = [prompt, *(tokens(step, 4)[place] for step in range(STEPS))]
        found.append([door.forward(piece, reading)[:, -1] for piece in pieces])
    return found


def together(door, pieces, readings, reading=None) -> tuple[torch.Tensor, ...]:
    lengths = [piece.shape[1] for piece in pieces]
    last = torch.tensor(lengths).cumsum(0) - 1
    reading = reading or Together(readings, lengths)
    return door.forward(torch.cat(pieces, 1), reading, last)[0].split(1)


@torch.inference_mode()
def test_prompts_and_tokens_of_all_kinds_are_read_as_alone(door):
    expected, members = alone(door), cast()
    readings = [reading for _, reading in members]
    for step in range(STEPS + 1):
        pieces = tokens(step - 1, 4) if step else [prompt for prompt, _ in members]
        rows = together(door, pieces, readings)
        for row, each in zip(rows, expected, strict=True):
            torch.testing.assert_close(row, each[step], **NEAR)


@torch.inference_mode()
def test_members_come_and_go(door):
    """A prompt is read beside single tokens; then one leaves, and the others do not notice."""
    expected, members = alone(door), cast()
    early, late = members[:3], members[3]
    for prompt, reading in early:
        door.forward(prompt, reading)
    pieces = [*tokens(0, 4)[:3], late[0]]
    rows = together(door, pieces, [reading for _, reading in members])
    for place, step in enumerate((1, 1, 1, 0)):
        torch.testing.assert_close(rows[place], expected[place][step], **NEAR)
    pieces = [tokens(1, 4)[0], tokens(0, 4)[3]]
    rows = together(door, pieces, [members[0][1], members[3][1]])
    torch.testing.assert_close(rows[0], expected[0][2], **NEAR)
    torch.testing.assert_close(rows[1], expected[3][1], **NEAR)


@torch.inference_mode()
def test_a_stock_cache_goes_on_as_a_plain_reading(door):
    """What the model's own cache holds is a plain span already: nothing is computed again."""
    model, prompt = door.model, ids(7, 40)
    cache, untouched = (DynamicCache(config=model.config) for _ in range(2))
    for each in (cache, untouched):
        model(prompt, past_key_values=each, logits_to_keep=1)
    reading = Plain.holding({i: (x.keys, x.values) for i, x in enumerate(cache.layers)})
    other = pine(60, 4, 6)
    door.forward(*other)
    for step in range(STEPS):
        pieces = tokens(step, 2)
        expected = model(pieces[0], past_key_values=untouched, logits_to_keep=1).logits[:, -1]
        row, _ = together(door, pieces, [reading, other[1]])
        torch.testing.assert_close(row, expected, **NEAR)


class Broken(Plain):
    """Fails in the second layer of a decoding step; or returns too much there."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self._wide = wide

    def read(self, layer, query, key, value):
        read = super().read(layer, query, key, value)
        if layer.index == 0 or query.shape[2] > 1:
            return read
        if self._wide:
            return torch.cat([read, read, read], 2)
        raise RuntimeError("planted")


@pytest.mark.parametrize("wide", [False, True])
@torch.inference_mode()
def test_a_reading_that_fails_is_named_and_disturbs_nobody(door, wide):
    expected, members = alone(door), cast()
    members[1] = (ids(9, 12), Broken(wide))
    for prompt, reading in members:
        door.forward(prompt, reading)
    for step in range(2):
        side = Together([reading for _, reading in members], [1] * 4)
        rows = together(door, tokens(step, 4), [], side)
        assert list(side.failed) == [1]
        for place in (0, 2, 3):
            torch.testing.assert_close(rows[place], expected[place][step + 1], **NEAR)
