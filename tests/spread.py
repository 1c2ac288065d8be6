"""Models that accelerate has spread, and what is read through them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import (  # type: ignore[import-untyped]
    cpu_offload,
    disk_offload,
    dispatch_model,
)
from accelerate.hooks import remove_hook_from_module  # type: ignore[import-untyped]
from devices import ONE, OTHER
from models import tiny_llama
from reads import ids
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from kvedit.group_position import GroupPositionReading
from kvedit.hf import Door
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading
from kvedit.reading import Reading

CPU = torch.device("cpu")
LAYERS = 3
ALIGNED = 64  # bytes
OFFLOADED = ("cpu", "disk", "mapped")  # what `offloaded` can do


def saved(folder: Path, **changes: Any) -> Path:
    """Write a tiny model, changed so, into a folder, and return that.

    Where a matrix begins decides last bits of products with it. In this file all begin where memory
    of their own would: so it does not matter from where a tensor comes.
    """
    tiny_llama(num_hidden_layers=LAYERS, **changes).save_pretrained(folder)
    file, tensors = folder / "model.safetensors", load_file(folder / "model.safetensors")
    for pad in range(0, ALIGNED, 8):
        save_file(tensors, file, {"format": "pt", "pad": "-" * pad})
        if (8 + int.from_bytes(file.read_bytes()[:8], "little")) % ALIGNED == 0:
            return folder
    raise AssertionError("a header of some length ends there")


def whole(folder: Path, device_map: Mapping[str, str] | None = None) -> LlamaForCausalLM:
    """Return the model of a folder, spread only if a map says so."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        folder,
        attn_implementation="sdpa",
        device_map=None if device_map is None else dict(device_map),
        offload_folder=folder / "parts",
    )
    return model.requires_grad_(False)


def offloaded(folder: Path, how: str) -> LlamaForCausalLM:
    """Return the model of a folder, whose weights are with their layers for their forward alone."""
    if how == "cpu":
        return cpu_offload(whole(folder), CPU)  # type: ignore[no-any-return]
    if how == "disk":
        parts = str(folder / "all")
        return disk_offload(whole(folder), parts, CPU)  # type: ignore[no-any-return]
    assert how == "mapped"
    return whole(folder, placed(("cpu", "cpu", "disk", "cpu", "disk")))


def placed(places: tuple[str, ...]) -> dict[str, str]:
    """Return a device map: of the embeddings, of each layer, and of the head."""
    first, *layers, last = places
    found = {f"model.layers.{index}": place for index, place in enumerate(layers)}
    found |= {"model.embed_tokens": first, "model.rotary_emb": first}
    return found | {"model.norm": last, "lm_head": last}


# while `devices.Devices` is entered: layers on both, the last one and the head not where ids are;
# the same with some that are elsewhere in between; and with logits that stay where the head is
ACROSS = {
    "devices": (str(ONE), str(ONE), str(OTHER), str(OTHER), str(OTHER)),
    "devices and offload": (str(ONE), "cpu", str(OTHER), "disk", str(OTHER)),
    "logits elsewhere": (str(ONE), str(ONE), str(OTHER), str(OTHER), str(OTHER)),
}


def across(folder: Path, how: str) -> LlamaForCausalLM:
    """Return the model of a folder on two devices, in one of the ways of `ACROSS`."""
    model = whole(folder)
    dispatch_model(
        model,
        placed(ACROSS[how]),
        main_device=ONE,
        offload_dir=str(folder / "dispatched"),
        skip_keys=model._skip_keys_device_placement,
    )
    if how == "logits elsewhere":
        remove_hook_from_module(model)  # of the whole, which would bring them back
    return model


def readings() -> dict[str, tuple[Reading, int]]:
    """Return a reading of each kind that is told by numbers, and its prompt's tokens."""
    groups = GroupPositionReading(40, seen=(12, 20, 20, 33))
    groups.feed(33)
    found: dict[str, tuple[Reading, int]] = {
        "plain": (PlainReading(), 40),
        "lm-infinite": (LmInfiniteReading(4, 16, 16), 40),
        "group positions": (groups, 43),
    }
    return found


@torch.inference_mode()
def answer(door: Door, reading: Reading, prompt: Tensor) -> list[Tensor]:
    """Return all logits of a prompt, and of the three tokens that follow it."""
    prompt = prompt.to(door.device)
    found = [door.forward(prompt, reading, 0)]
    if isinstance(reading, GroupPositionReading):
        reading.feed(0)
    for _ in range(3):
        found.append(door.forward(found[-1][:, -1].argmax(-1, keepdim=True), reading))
    return [each.cpu() for each in found]


@torch.inference_mode()
def shared(door: Door) -> list[Tensor]:
    """Return the logits of sequences of all kinds in shared forwards: prompts, then tokens."""
    members = list(readings().values())
    own = [reading for reading, _ in members]
    pieces = [ids(seed, length) for seed, (_, length) in enumerate(members)]
    found = []
    for _ in range(3):
        logits, failed = door.together([each.to(door.device) for each in pieces], own)
        assert not failed
        for reading in own:
            if isinstance(reading, GroupPositionReading):
                reading.feed(0)
        pieces = list(logits.argmax(-1).split(1))
        found.append(logits.cpu())
    return found


def alike(one: Door, other: Door, name: str) -> bool:
    """Return whether a reading of some kind answers the same through both, to the last bit."""
    found = []
    for door in (one, other):
        reading, length = readings()[name]
        found.append(answer(door, reading, ids(2, length)))
    return same(*found)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Return whether all logits are equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
