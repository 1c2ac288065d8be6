"""PINE through a model that is offloaded, or on several devices: the same bits, in every order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from devices import Devices
from spread import ACROSS, OFFLOADED, across, offloaded, same, saved, whole
from torch import Tensor

from kvedit.executors.torch import TorchExecutor
from kvedit.hf import Door, open_door
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from pine.reading import PineReading

PREFIX = tuple(range(1, 71))
DOCUMENTS = tuple(tuple(range(d, d + 20 + d)) for d in range(3))
QUESTION = (3, 8, 2)
Answer = tuple[list[Tensor], dict[int, float], int]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


@torch.inference_mode()
def answer(door: Door, order: tuple[int, ...], shelf: Shelf | None = None) -> Answer:
    """Return the logits of four steps, the importance by document, and what was cached."""
    documents = tuple(DOCUMENTS[index] for index in order)
    segments = Segments(PREFIX, documents, QUESTION).canonical()
    reading, found = PineReading(segments, shelf, explain=True), []
    pieces = reading.pieces(len(segments.ids))
    for each in pieces:
        piece = torch.tensor([segments.ids[each.start : each.stop]], device=door.device)
        logits = door.forward(piece, reading, 1 if each is pieces[-1] else None)
    for _ in range(3):
        found.append(logits.cpu())
        logits = door.forward(logits[:, -1].argmax(-1, keepdim=True), reading)
    importance = reading.report()["pine"]["importance"]
    told = {index: importance[place] for place, index in enumerate(order)}
    return [*found, logits.cpu()], told, pieces[0].start


def check(spread: Door, plain: Door) -> None:
    """Let a spread model answer in two orders, the second time from what was kept."""
    expected, importance, _ = answer(plain, (0, 1, 2))
    shelf = Shelf(1 << 24)
    for order, cached in ((0, 1, 2), 0), ((2, 0, 1), len(PREFIX) + sum(map(len, DOCUMENTS))):
        found, told, kept = answer(spread, order, shelf)
        assert same(found, expected)
        assert (told, kept) == (importance, cached)


@pytest.mark.parametrize("how", OFFLOADED)
def test_offloaded(folder: Path, how: str) -> None:
    check(open_door(offloaded(folder, how)), open_door(whole(folder)))


@pytest.mark.parametrize("how", list(ACROSS))
def test_on_several_devices(folder: Path, how: str) -> None:
    with Devices():
        check(open_door(across(folder, how)), open_door(whole(folder), TorchExecutor()))
