"""Models of which a part lies elsewhere between forwards are read as if they were whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.hooks import (  # type: ignore[import-untyped]
    ModelHook,
    add_hook_to_module,
)
from models import tiny_llama
from spread import CPU, OFFLOADED, alike, offloaded, readings, same, saved, shared, whole

from kvedit.hf import Door, open_door
from kvedit.placement import content, entrance

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def door(folder: Path) -> Door:
    return open_door(whole(folder))


@pytest.fixture(scope="module", params=OFFLOADED)
def spread(folder: Path, request: pytest.FixtureRequest) -> Door:
    return open_door(offloaded(folder, request.param))


def test_the_gate_says_the_same_of_it(spread: Door, door: Door) -> None:
    assert any(each.is_meta for each in spread.model.parameters())
    assert (spread.refusal, spread.device) == (None, CPU)
    assert spread.executor.name == door.executor.name
    for one, other in zip(spread.geometries, door.geometries, strict=True):
        assert one is not None and other is not None
        assert torch.equal(one.inv_freq, other.inv_freq)


@pytest.mark.parametrize("name", list(readings()))
def test_readings_have_the_same_bits(spread: Door, door: Door, name: str) -> None:
    assert alike(spread, door, name)


def test_shared_forwards_have_the_same_bits(spread: Door, door: Door) -> None:
    assert same(shared(spread), shared(door))


def test_its_content_is_that_of_the_whole_model_and_does_not_stay(spread: Door, door: Door) -> None:
    before = {name: each.device for name, each in spread.model.named_parameters()}
    expected = dict(content(door.model))
    names = []
    for name, tensor in content(spread.model):
        assert torch.equal(tensor, expected[name])
        names.append(name)
    assert sorted(names) == sorted(expected)
    assert {name: each.device for name, each in spread.model.named_parameters()} == before


def test_only_what_is_wanted_is_fetched(spread: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    for name, module in spread.model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        if hook is not None:
            monkeypatch.setattr(hook, "pre_forward", lambda *_, name=name: fetched.append(name))
    assert [name for name, _ in content(spread.model, lambda name: name.endswith("inv_freq"))]
    assert not fetched  # frequencies are no part of a checkpoint: they are where they are used


@pytest.mark.parametrize("how", [None, *OFFLOADED])
def test_shared_tensors_have_all_their_names(tmp_path: Path, how: str | None) -> None:
    """Offloading parts what is tied; the content is the same."""
    folder = saved(tmp_path, tie_word_embeddings=True)
    model = whole(folder) if how is None else offloaded(folder, how)
    found = {name: tensor.clone() for name, tensor in content(model)}
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_the_entrance_is_where_the_embeddings_compute() -> None:
    model = tiny_llama()
    assert entrance(model) == CPU
    model.model.embed_tokens.to("meta")
    assert entrance(model).type == "meta"  # no hook says otherwise: it is not loaded


def test_a_tensor_of_two_names_comes_twice() -> None:
    module = torch.nn.Linear(2, 3)
    module.again = module.weight
    assert [name for name, _ in content(module)] == ["weight", "bias", "again"]


def test_hooks_may_stand_in_a_row(folder: Path) -> None:
    model = offloaded(folder, "cpu")
    for module in (model, model.model.embed_tokens):
        add_hook_to_module(module, ModelHook(), append=True)
    assert entrance(model) == CPU
    assert not any(tensor.is_meta for _, tensor in content(model))
