"""Readings side by side in one forward: each row as alone, and a row that fails fails alone."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from models import held_by, tiny_llama, tiny_qwen2
from reads import HALF, close, each_executor, ids, vectors
from torch import Tensor
from transformers import DynamicCache

from kvedit.executors import Executor
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.torch import TorchExecutor
from kvedit.group_position import GroupPositionReading
from kvedit.hf import Door, open_door
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.pages import Pages
from kvedit.plain import PlainReading
from kvedit.reading import Layer, Reading
from kvedit.sight import Ranked, Rows
from kvedit.spans import SpanSet
from kvedit.together import Alone, Together

NEAR = 2e-5
STEPS = 4


def groups(source: int, seen: Sequence[int] = ()) -> GroupPositionReading:
    reading = GroupPositionReading(source + 9, seen)
    reading.feed(source)
    return reading


def cast() -> list[tuple[Tensor, Reading]]:
    """Return prompts of different techniques and lengths, each with a fresh reading."""
    return [
        (ids(1, 3), PlainReading()),
        (ids(2, 40), LmInfiniteReading(4, 16, 16)),
        (ids(3, 90), PlainReading()),
        (ids(4, 21), groups(15, (7, 7, 9))),
    ]


def go_on(readings: Sequence[Reading]) -> None:
    """Let what follows belong to the target."""
    for reading in readings:
        if isinstance(reading, GroupPositionReading):
            reading.feed(0)


def tokens(step: int, rows: int) -> list[Tensor]:
    return list(ids(100 + step, rows).split(1, 1))


@pytest.fixture(scope="module", params=["llama, torch", "llama, cpu", "qwen2, cpu"])
def door(request: pytest.FixtureRequest) -> Door:
    family, executor = request.param.split(", ")
    executors: dict[str, Executor] = {"torch": TorchExecutor(), "cpu": CpuExecutor()}
    model = tiny_llama() if family == "llama" else tiny_qwen2()
    opened = open_door(model, executors[executor])
    assert opened.refusal is None
    return opened


def alone(door: Door) -> list[list[Tensor]]:
    """Return each member's last-token logits, forward by forward, on its own."""
    found = []
    for place, (prompt, reading) in enumerate(cast()):
        rows = [door.forward(prompt, reading)[:, -1]]
        go_on([reading])
        rows += [door.forward(tokens(step, 4)[place], reading)[:, -1] for step in range(STEPS)]
        found.append(rows)
    return found


def together(door: Door, pieces: Sequence[Tensor], readings: Sequence[Reading]) -> list[Tensor]:
    logits, failed = door.together(pieces, readings)
    assert not failed
    return list(logits[:, 0].split(1))


@torch.inference_mode()
def test_prompts_and_tokens_of_all_kinds_are_read_as_alone(door: Door) -> None:
    expected, members = alone(door), cast()
    readings = [reading for _, reading in members]
    for step in range(STEPS + 1):
        pieces = tokens(step - 1, 4) if step else [prompt for prompt, _ in members]
        rows = together(door, pieces, readings)
        go_on(readings)
        for row, each in zip(rows, expected, strict=True):
            close(row, each[step], NEAR)


@torch.inference_mode()
def test_members_come_and_go(door: Door) -> None:
    """A prompt is read beside single tokens; then one leaves, and the others do not notice."""
    expected, members = alone(door), cast()
    early, late = members[:3], members[3]
    for prompt, reading in early:
        door.forward(prompt, reading)
    readings = [reading for _, reading in members]
    rows = together(door, [*tokens(0, 4)[:3], late[0]], readings)
    go_on(readings)
    for place, step in enumerate((1, 1, 1, 0)):
        close(rows[place], expected[place][step], NEAR)
    pieces = [tokens(1, 4)[0], tokens(0, 4)[3]]
    rows = together(door, pieces, [members[0][1], members[3][1]])
    close(rows[0], expected[0][2], NEAR)
    close(rows[1], expected[3][1], NEAR)


@torch.inference_mode()
def test_a_stock_cache_goes_on_as_a_plain_reading(door: Door) -> None:
    """What the model's own cache holds is a plain span already: nothing is computed again."""
    model, prompt = door.model, ids(7, 40)
    cache, untouched = (DynamicCache(config=model.config) for _ in range(2))
    for each in (cache, untouched):
        model(prompt, past_key_values=each, logits_to_keep=1)
    reading, other = PlainReading.holding(40, held_by(cache), door.geometries), groups(10)
    door.forward(ids(60, 14), other)
    go_on([other])
    for step in range(STEPS):
        pieces = tokens(step, 2)
        expected = model(pieces[0], past_key_values=untouched, logits_to_keep=1).logits[:, -1]
        row, _ = together(door, pieces, [reading, other])
        close(row, expected, NEAR)


class Broken(PlainReading):
    """Fails in the second layer of a decoding step; or asks there for what nobody can read."""

    def __init__(self, unreadable: bool) -> None:
        super().__init__()
        self._unreadable = unreadable

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        rows = super().rows(layer, key, value)
        if layer.index == 0 or key.shape[2] > 1:
            return rows
        if self._unreadable:
            empty = SpanSet(Pages([2], key.device), layer.geometry)  # nobody has filled it
            return [Rows(slice(0, 1), rows[0].place, (Ranked(empty, 2), *rows[0].sights))]
        raise RuntimeError("planted")


@pytest.mark.parametrize("unreadable", [False, True])
@torch.inference_mode()
def test_a_reading_that_fails_is_named_and_disturbs_nobody(door: Door, unreadable: bool) -> None:
    expected, members = alone(door), cast()
    members[1] = (ids(9, 12), Broken(unreadable))
    readings = [reading for _, reading in members]
    for prompt, reading in members:
        door.forward(prompt, reading)
    go_on(readings)
    for step in range(2):
        logits, failed = door.together(tokens(step, 4), readings)
        assert list(failed) == [1]
        for place in (0, 2, 3):
            close(logits[place], expected[place][step + 1], NEAR)


@pytest.fixture
def memory_is_never_clean() -> Iterator[None]:
    """Let new memory be full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("memory_is_never_clean")
@pytest.mark.parametrize("unreadable", [False, True])
@each_executor
def test_who_fails_reads_nothing_rather_than_anything(executor: Executor, unreadable: bool) -> None:
    """In the layer where it fails, and in those that follow."""
    readings = [PlainReading(), Broken(unreadable), PlainReading()]
    prompts = vectors(9)
    assert torch.empty(3).isnan().all()
    for place, reading in enumerate(readings):  # each has read something before
        some = slice(3 * place, 3 * place + 2)
        for index in range(2):
            Alone(reading, executor).read(
                Layer(index, HALF, 0.5), *(x[:, :, some] for x in prompts)
            )
    side = Together(readings, [1, 1, 1], executor)
    for index in range(3):
        read = side.read(Layer(index, HALF, 0.5), *vectors(3, index))
        assert list(side.failed) == ([1] if index else [])
        assert read.isfinite().all()
        assert bool(read[:, :, 1].any()) == (index == 0)
