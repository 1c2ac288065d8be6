"""Devices and types: what is chosen where nothing is said, and what cannot be."""

from __future__ import annotations

import logging
import platform
from typing import Any

import pytest
import torch

from server.engines.hf import placement
from server.engines.hf.placement import Placement, computes
from server.errors import PlanError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("stored", "device", "native", "expected"),
    [
        (torch.bfloat16, CPU, True, torch.bfloat16),
        (torch.bfloat16, CPU, False, torch.float32),
        (torch.float16, CPU, False, torch.float32),
        (torch.float32, CPU, False, torch.float32),
        (torch.float64, CPU, True, torch.float32),
        (torch.float8_e4m3fn, CPU, True, torch.float32),
        (None, CPU, True, torch.float32),
        (torch.float16, GPU, False, torch.float16),
        (torch.float32, GPU, True, torch.float32),
        (None, GPU, False, torch.bfloat16),
    ],
)
def test_auto_is_the_checkpoints_type_where_the_device_computes_in_it(
    stored: torch.dtype | None,
    device: torch.device,
    native: bool,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(placement, "computes", lambda dtype: native)
    with caplog.at_level(logging.INFO):
        assert Placement().chosen_dtype(stored, device) == expected
    said = stored in (torch.bfloat16, torch.float16) and expected == torch.float32
    assert ["become float32" in each.getMessage() for each in caplog.records] == [True] * said


def test_a_type_that_is_asked_for_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    assert Placement(dtype="float16").chosen_dtype(torch.float32, CPU) == torch.float16
    assert not caplog.records


@pytest.mark.parametrize(
    ("has", "bf16", "fp16"),
    [
        ({"avx512_bf16": True, "avx512_fp16": False}, True, False),
        ({"amx_bf16": True, "amx_fp16": True}, True, True),
        ({"bf16": True, "fp16_arith": True, "neon": True}, True, True),
        ({"avx512_f": True, "f16c": True}, False, False),
        ({}, False, False),
    ],
)
def test_half_types_that_a_processor_computes_in(
    has: dict[str, bool], bf16: bool, fp16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert (computes(torch.bfloat16), computes(torch.float16)) == (bf16, fp16)


def test_an_older_torch_tells_of_its_processor_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: False)
    assert (computes(torch.bfloat16), computes(torch.float16)) == (True, False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not computes(torch.bfloat16)


def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert Placement().chosen_device().type == expected


@pytest.mark.parametrize("device", ["tpu", "cpu:x", "meta", "xla", "vulkan"])
def test_a_device_that_is_not_here(device: str) -> None:
    with pytest.raises(PlanError, match="--device must be one that"):
        Placement(device).chosen_device()


def test_what_is_read() -> None:
    read = Placement.read("auto", "auto", '{"": 0, "lm_head": "cpu"}', "0=10GiB, cpu=1.5GB,disk=9")
    assert read.device_map == {"": 0, "lm_head": "cpu"}
    assert read.max_memory == {0: "10GiB", "cpu": "1.5GB", "disk": "9"}
    assert Placement.read("cpu", "auto", None, None) == Placement("cpu")
    assert Placement.read("auto", "auto", "balanced", None).device_map == "balanced"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"device": "cpu", "device_map": "auto"}, "--device-map cannot be given with a device"),
        ({"max_memory": "0=1GiB"}, "--max-memory cannot be given without a device map"),
        ({"device_map": "autom"}, "--device-map must be auto, balanced"),
        ({"device_map": '["cpu"]'}, "--device-map must be"),
        ({"device_map": '{"": 1.5}'}, "--device-map must be"),
        ({"device_map": "{}"}, "--device-map must be"),
        ({"device_map": "auto", "max_memory": "10GiB"}, "--max-memory must be like"),
        ({"device_map": "auto", "max_memory": "0=ten"}, "--max-memory must be like"),
    ],
)
def test_what_contradicts_itself(given: dict[str, Any], expected: str) -> None:
    plain = {"device": "auto", "dtype": "auto", "device_map": None, "max_memory": None}
    with pytest.raises(PlanError, match=expected):
        Placement.read(**{**plain, **given})
