"""Models on several devices: each layer is read where it is, and no two devices meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from devices import ONE, OTHER, Devices
from reads import ids, vectors
from spread import ACROSS, across, alike, answer, readings, same, saved, shared, whole
from torch import Tensor

from kvedit.executors import Executor, products
from kvedit.executors.by_device import ByDevice
from kvedit.executors.choice import Choice
from kvedit.executors.runs import as_specified, in_runs
from kvedit.executors.torch import TorchExecutor
from kvedit.gate import Seen
from kvedit.hf import Door, _shapes, open_door
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.sight import Ranked, Rows


class Products(TorchExecutor):
    """Reads by products where it can: they are for any device."""

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        return in_runs(layer, query, rows, self._run)

    def _run(self, layer: Layer, query: Tensor, run: Sequence[Rows]) -> Tensor:
        if any(isinstance(each, Ranked) and each.own is not None for each in run[0].sights):
            return as_specified(layer, query, run)
        return products.read(layer, query, run[0])


@pytest.fixture(scope="module", autouse=True)
def two_devices(one_thread: None) -> Iterator[None]:
    with Devices():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def door(folder: Path) -> Door:
    return open_door(whole(folder), TorchExecutor())


@pytest.fixture(scope="module", params=list(ACROSS))
def spread(two_devices: None, folder: Path, request: pytest.FixtureRequest) -> Door:
    return open_door(across(folder, request.param))


def read_by(door: Door, executor: Executor) -> Door:
    return replace(door, choice=Choice(executor, {}))


def test_devices_do_not_mix() -> None:
    one, other = torch.ones(3, device=ONE), torch.ones(3, device=OTHER)
    with pytest.raises(RuntimeError, match="must meet one device"):
        one + other
    with pytest.raises(RuntimeError, match="must meet one device"):
        one + torch.ones(3)
    with pytest.raises(RuntimeError, match="must meet one device"):
        one[torch.tensor([1], device=OTHER)]
    assert (one + one.sum().cpu())[torch.tensor([1])].tolist() == [4.0]
    assert (one + other.to(ONE)).device == ONE


def test_each_layer_has_its_geometry_where_it_is(spread: Door) -> None:
    assert (spread.refusal, spread.device) == (None, ONE)
    assert spread.executor.name == "torch"
    found = [each.inv_freq.device for each in spread.geometries if each is not None]
    assert found[:2] == [ONE, OTHER] and len(found) == len(spread.layers)


def test_layers_of_a_device_share_their_geometry(folder: Path) -> None:
    first, second, third = open_door(across(folder, "devices")).geometries
    assert first is not second and second is third


def test_layers_without_positions_are_measured_on_every_device() -> None:
    watched = {}
    for index, device in enumerate((ONE, ONE, OTHER)):
        query, key, value = (each.to(device) for each in vectors(3))
        watched[index] = Seen(query, key, value, query, None, None, 0.5, None)
    shapes = _shapes(watched, [None, None, None])
    assert [each.device for each in shapes] == [ONE, OTHER]


@pytest.mark.parametrize("name", list(readings()))
def test_readings_have_the_same_bits(spread: Door, door: Door, name: str) -> None:
    assert alike(spread, door, name)


def test_shared_forwards_have_the_same_bits(spread: Door, door: Door) -> None:
    assert same(shared(spread), shared(door))


def test_an_executor_for_each_device(spread: Door, door: Door) -> None:
    both = read_by(spread, ByDevice({ONE: TorchExecutor(), OTHER: Products()}))
    for one, other in zip(shared(both), shared(door), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


def test_keys_live_where_their_layer_lives(spread: Door) -> None:
    reading = PlainReading()
    answer(spread, reading, ids(2, 9))
    found = [reading._spans[index].keys.device for index in range(len(spread.layers))]
    assert found == [each.inv_freq.device for each in spread.geometries if each is not None]
