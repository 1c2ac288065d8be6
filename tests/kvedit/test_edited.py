"""The reading of a text that is edited: its positions are right, and healed, all of it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from edits import EditedText, from_scratch, held, random_changes
from models import in_dtype, tiny_llama, tiny_qwen2
from oracles import EditedOracle, rotary_of
from reads import EXECUTORS, HALF, close, each_executor, each_layer, vectors
from torch import Tensor
from transformers import PreTrainedModel

from kvedit import edit as layouts
from kvedit.diff import Hunk, apply, hunks
from kvedit.edited import EditedReading
from kvedit.executors import Executor
from kvedit.executors.torch import TorchExecutor
from kvedit.healing import anew
from kvedit.hf import Door, open_door
from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind
from kvedit.rotary import RotaryGeometry, turn

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 5e-5  # of logits, float32
IDS = [random.Random(3).randrange(128) for _ in range(60)]
INSERTED = Hunk(20, 20, (5, 6, 7, 8))


def half() -> PreTrainedModel:
    """Return a model in bfloat16."""
    return in_dtype(tiny_llama(), torch.bfloat16)


@pytest.fixture(scope="module", params=EXECUTORS, ids=lambda each: each.name)
def door(request: pytest.FixtureRequest) -> Door:
    opened = open_door(tiny_llama(), request.param)
    assert opened.refusal is None
    return opened


@pytest.fixture(params=[layouts.MOST_PIECES, 1], ids=["pieces", "laid out anew"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a text stay in pieces, or be laid out anew before every forward."""
    monkeypatch.setattr(layouts, "MOST_PIECES", request.param)
    most: int = request.param
    return most


def due_of(draw: random.Random, reading: EditedReading) -> tuple[int, ...]:
    """Let some tokens be healed, often the last one, and return what is due."""
    share = draw.choice((0.0, 0.1, 0.5))
    chosen = [index for index in range(reading.length) if draw.random() < share]
    reading.heal([*chosen, reading.length - 1] if reading.length else [])
    return reading.due


@each_executor
@each_layer
@pytest.mark.parametrize("most_runs", [0, 8])
def test_it_equals_the_oracle_whatever_is_edited_and_healed(
    executor: Executor,
    layer: Layer,
    dim: int,
    most_runs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token of each forward gets vectors of its own: what was computed last is what counts."""
    monkeypatch.setattr("kvedit.edited.MOST_RUNS", most_runs)
    monkeypatch.setattr(layouts, "MOST_PIECES", 5)
    draw, reading = random.Random(dim + most_runs), EditedReading()
    oracle = EditedOracle(rotary_of(layer.geometry), layer.scaling, layer.softcap)
    changes = [Hunk(0, 0, tuple(range(12)))]
    for step in range(12):
        reading.edit(changes)
        for hunk in reversed(changes):
            oracle.edit(hunk.start, hunk.stop, len(hunk.ids))
        due = due_of(draw, reading)
        if due:
            query, key, value = vectors(len(due), step, dim=dim)
            rows = reading.rows(layer, key, value)
            found = executor.read(layer, query, rows)[0].double()
            close(found, oracle.read(due, query[0], key[0], value[0]), 2e-5)
        changes = random_changes(draw, reading.length)


@each_executor
@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2, half])
@torch.inference_mode()
def test_a_text_that_nobody_edits_is_read_plainly_to_the_last_bit(
    executor: Executor, build: Callable[[], PreTrainedModel]
) -> None:
    own, (reading, plain) = open_door(build(), executor), (EditedReading(), PlainReading())
    for forward in (IDS[:40], IDS[40:47], *([one] for one in IDS[47:])):
        tokens = torch.tensor([forward])
        assert torch.equal(own.forward(tokens, reading, 0), own.forward(tokens, plain, 0))
    assert reading.stale == () and reading.length == len(IDS)
    assert reading.report() == {"pie": {"stale_fraction": 0.0, "edits": 0}}


@pytest.mark.parametrize("seed", range(4))
@torch.inference_mode()
def test_the_first_layer_is_that_of_the_new_text(door: Door, seed: int) -> None:
    draw, text = random.Random(seed), EditedText(door, IDS)
    for _ in range(5):
        text.edit(random_changes(draw, len(text.ids)))
    if not text.ids:
        return
    fresh = held(EditedText(door, text.ids).reading)[0]
    for found, expected in zip(held(text.reading)[0], fresh, strict=True):
        close(found, expected, 3e-5)


@pytest.mark.parametrize("change", [INSERTED, Hunk(1, 1, (9,)), Hunk(40, 40, tuple(range(20)))])
@torch.inference_mode()
def test_an_edit_and_its_inverse_restore_the_logits_to_the_bit(
    door: Door, change: Hunk, pieces: int
) -> None:
    text = EditedText(door, IDS)
    before = text.predict()
    text.edit([change])
    assert len(text.reading.stale) == len(IDS) - change.start
    between = text.predict()
    text.edit([Hunk(change.start, change.start + len(change.ids), ())])
    # the last token alone was computed between the two: it is computed again
    assert list(text.reading.stale) == [len(IDS) - 1]
    assert torch.equal(text.predict(), before)
    assert not text.reading.stale and text.reading.edits == 0
    assert not torch.equal(between, before)


@torch.inference_mode()
def test_what_is_put_back_is_right_again(door: Door, pieces: int) -> None:
    """Cut and pasted back: the same ids in the same place, so what follows is exact as it is."""
    text = EditedText(door, IDS)
    before = text.predict()
    text.edit([Hunk(20, 30, ())])
    assert text.reading.stale == tuple(range(20, 50))
    text.edit([Hunk(20, 20, tuple(IDS[20:30]))])
    assert text.reading.stale == ()
    close(text.predict(), before, NEAR)


@torch.inference_mode()
def test_an_edit_at_the_end_is_prefix_reuse_to_the_bit(door: Door) -> None:
    text, plain = EditedText(door, IDS), PlainReading()
    door.forward(torch.tensor([IDS]), plain)
    for keep, new in ((50, (1, 2, 3)), (53, (4,) * 40), (20, (5,) * 3)):
        found = text.edit([Hunk(keep, len(text.ids), new)])
        for span in plain._spans.values():
            span.retract(span.length - keep)
        expected = door.forward(torch.tensor([new]), plain)[0, -1]
        assert torch.equal(found, expected)
        assert text.reading.stale == () and text.reading.edits == 0


@torch.inference_mode()
def test_an_answer_is_rolled_back_and_given_again_to_the_bit(door: Door, pieces: int) -> None:
    text = EditedText(door, IDS)
    text.edit([INSERTED])
    answers = []
    for _ in range(2):
        logits = [text.predict()]
        logits += [text.step(token) for token in (7, 8, 9)]
        answers.append(torch.stack(logits))
        text.edit([Hunk(len(text.ids) - 3, len(text.ids), ())])
    assert torch.equal(*answers)


@torch.inference_mode()
def test_two_ways_to_a_text_agree(door: Door, pieces: int) -> None:
    """Typed token by token, or pasted: each new token is computed behind the same text."""
    pasted, typed = EditedText(door, IDS), EditedText(door, IDS)
    pasted.edit([INSERTED])
    for offset, token in enumerate(INSERTED.ids):
        typed.edit([Hunk(20 + offset, 20 + offset, (token,))])
    assert typed.ids == pasted.ids and typed.reading.stale == pasted.reading.stale
    close(typed.predict(), pasted.predict(), NEAR)
    assert (typed.reading.edits, pasted.reading.edits) == (4, 1)


@pytest.mark.parametrize("chunk", [1000, 7, 1])
@torch.inference_mode()
def test_healed_to_the_end_it_equals_recomputation(door: Door, chunk: int, pieces: int) -> None:
    draw, text = random.Random(chunk), EditedText(door, IDS)
    for _ in range(4):
        text.edit(random_changes(draw, len(text.ids)))
        computed = 0
        while text.reading.stale:
            some = text.reading.stale[:chunk]
            text.heal(some)
            computed += len(some)
            assert text.reading.stale[:1] != some[:1], "what is healed from the left stays healed"
        assert computed <= len(text.ids) and text.reading.edits == 0
        close(text.predict(), from_scratch(door, text.ids), NEAR)


@torch.inference_mode()
def test_computed_anew_from_a_token_on_it_is_prefix_reuse_to_the_bit(door: Door) -> None:
    text, plain = EditedText(door, IDS), PlainReading()
    door.forward(torch.tensor([IDS]), plain)
    text.edit([INSERTED, Hunk(40, 42, (1,))])
    found = text.edit(anew(len(text.ids), text.ids, 20))
    for span in plain._spans.values():
        span.retract(span.length - 20)
    assert torch.equal(found, door.forward(torch.tensor([text.ids[20:]]), plain)[0, -1])
    assert text.reading.stale == ()


@torch.inference_mode()
def test_a_chain_of_edits_found_in_the_ids(door: Door, pieces: int) -> None:
    """Whole texts come, as from a tokenizer; all is healed now and then, and then all is right."""
    draw, text = random.Random(11), EditedText(door, IDS)
    for step in range(20):
        new = apply(text.ids, random_changes(draw, len(text.ids), 6)) or [1]
        text.edit(hunks(text.ids, new), [len(new) - 1])
        assert text.ids == new
        if step % 5 == 4:
            text.heal(text.reading.stale)
            close(text.predict(), from_scratch(door, new), NEAR)


@torch.inference_mode()
def test_a_thousand_edits_move_keys_and_round_them_once() -> None:
    """Positions, not content: keys as they appear, against those made for their final places."""
    draw, reading, raw = random.Random(0), EditedReading(), list[Tensor]()
    geometry = RotaryGeometry(10000.0 ** (-torch.arange(0, 128, 2).float() / 128))
    layer, generator = Layer(0, geometry, 128**-0.5), torch.Generator().manual_seed(0)
    changes, renewed = [Hunk(0, 0, tuple(range(200)))], 0
    for _ in range(1000):
        reading.edit(changes)
        for hunk in reversed(changes):
            fresh = torch.randn(len(hunk.ids), 2, 1, 128, generator=generator)
            raw[hunk.start : hunk.stop] = list(fresh.to(torch.bfloat16))
        if due := reading.due:
            key = torch.stack([raw[index] for index in due], 2).view(1, 2, len(due), 128)
            reading.rows(layer, key, key)
        renewed += len(reading._layout.pieces) == 1
        start = draw.randrange(reading.length)
        new = draw.choice((0, 1, 2)) if reading.length < 300 else 0
        changes = [Hunk(start, min(start + 1, reading.length), (1,) * new)]
    exact = torch.cat(raw, 1)[None].double()
    doubled = RotaryGeometry(geometry.inv_freq.double())
    expected = turn(doubled, exact, torch.arange(reading.length))[0]
    keys, values = held(reading)[0]
    assert ((keys - expected).norm() / expected.norm()) < 3e-3
    assert torch.equal(values.double(), exact[0])
    assert renewed > 20  # it was laid out anew, often: that is what could have rounded


@torch.inference_mode()
def test_a_forward_may_be_fed_only_the_first_of_what_is_due(door: Door) -> None:
    whole, parts = EditedText(door, IDS), EditedText(door, IDS)
    changes = [INSERTED, Hunk(40, 41, (1, 2, 3))]
    expected = whole.edit(changes, [30, 31, 62])
    parts.reading.edit(changes)
    parts.reading.heal([30, 31, 62])
    parts.ids, found = apply(IDS, changes), torch.zeros(0)
    assert len(parts.reading.due) == 10
    while due := parts.reading.due[:3]:
        ids = torch.tensor([[parts.ids[index] for index in due]])
        found = door.forward(ids, parts.reading)[0, -1]
    close(found, expected, NEAR)
    assert parts.reading.stale == whole.reading.stale


def test_an_edit_finds_what_is_due_where_it_is_then() -> None:
    reading = EditedReading()
    reading.feed(range(10))
    assert reading.due == tuple(range(10))
    reading.edit([Hunk(2, 5, (7,)), Hunk(9, 9, (1, 2))])
    assert reading.due == tuple(range(10)) and reading.length == 10
    assert reading.edits == 0, "nothing is stale that nobody has computed"
    _, key, value = vectors(10)
    reading.rows(Layer(0, HALF, 0.5), key, value)
    reading.heal([8, 3])
    reading.edit([Hunk(5, 5, (1,)), Hunk(8, 9, ())])
    assert reading.due == (3, 5)
    reading.edit(())
    assert reading.due == (3, 5)


@pytest.mark.parametrize(
    "changes", [[Hunk(8, 11, ())], [Hunk(5, 4, ())], [Hunk(5, 7, ()), Hunk(6, 8, ())]]
)
def test_hunks_that_are_none_of_the_text_are_refused_and_change_nothing(
    changes: Sequence[Hunk],
) -> None:
    reading = EditedReading()
    reading.feed(range(10))
    with pytest.raises(ValueError, match="hunks must ascend within a text of 10 tokens"):
        reading.edit([Hunk(hunk.start, hunk.stop, (1,)) for hunk in changes])
    assert reading.length == 10
    with pytest.raises(IndexError, match="tokens must be of 10, got 10"):
        reading.heal([3, 10])
    assert reading.due == tuple(range(10))


def test_a_few_tokens_cost_a_few_rows_and_no_more_pieces() -> None:
    """What a forward is asked: rows as many as are due, and healing cuts nothing."""
    reading, layer = EditedReading(), Layer(0, HALF, 0.5)
    _, key, value = vectors(1000)
    reading.feed(range(1000))
    reading.rows(layer, key, value)
    reading.edit([Hunk(500, 500, (1,) * 40)])
    reading.heal([*range(540, 572), *range(600, 1000, 7), 1039])
    count = len(reading.due)
    rows = reading.rows(layer, key[:, :, :count], value[:, :, :count])
    assert count < 140 and sum(each.count for each in rows) == count
    assert [len(each.sights) for each in rows] == [1]
    reading.heal([540, 700, 1039])
    rows = reading.rows(layer, key[:, :, :3], value[:, :, :3])
    assert [(each.place, each.count) for each in rows] == [(540, 1), (700, 1), (1039, 1)]
    assert len(reading._layout.pieces) == 1
    assert reading.size <= 6 * 1040 * key[:, :, :1].nbytes


@torch.inference_mode()
def test_keys_stay_where_they_are_while_the_text_moves() -> None:
    reading, layer = EditedReading(), Layer(0, HALF, 0.5)
    _, key, value = vectors(40)
    reading.feed(range(40))
    reading.rows(layer, key, value)
    slots = reading._slots[0]
    before = slots.span(0, 40).keys.clone()
    for place in (3, 9, 20):
        reading.edit([Hunk(place, place, (1,))])
        reading.rows(layer, key[:, :, :1], value[:, :, :1])
    assert torch.equal(slots.span(0, 40).keys, before)
    assert [piece.slot for piece in reading._layout.pieces] == [0, 40, 3, 41, 8, 42, 18]


def test_layers_that_see_a_window_do_not_suit_it() -> None:
    reading, window = EditedReading(), LayerKind(HALF, window=8)
    assert reading.suits([LayerKind(HALF), LayerKind(None)]) is None
    assert reading.suits([LayerKind(HALF), window]) == "layers [1] see only the last 8 tokens"
    refused = LayerKind(HALF, refusal="it is odd")
    assert reading.suits([window, refused]) == "it is odd"


def test_the_prompt_is_one_forward() -> None:
    assert EditedReading().pieces(9) == (range(9),)
    assert all(one.stop == other.start for one, other in pairwise(EditedReading().pieces(9)))


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    layer, both = Layer(0, HALF, 0.5), vectors(24, batch=2)

    def read(rows: slice) -> Tensor:
        query, key, value = (each[rows] for each in both)
        reading, parts = EditedReading(), list[Tensor]()
        reading.feed(range(16))
        for first, last in ((0, 16), (16, 24)):
            if first:
                reading.edit([Hunk(4, 5, (1, 2, 3, 4, 5, 6, 7, 8))])
            some = slice(first, last)
            asked = reading.rows(layer, key[:, :, some], value[:, :, some])
            parts.append(TorchExecutor().read(layer, query[:, :, some], asked))
        return torch.cat(parts, 2)

    together = read(slice(0, 2))
    for row in range(2):
        close(together[row : row + 1], read(slice(row, row + 1)), 1e-5)
