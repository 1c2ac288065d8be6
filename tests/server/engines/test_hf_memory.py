"""A model that does not fit is told before it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocket import WEIGHTS
from server.engines import registry
from server.engines.hf import loading, memory
from server.engines.hf.folder import read_folder
from server.errors import EngineError
from server.settings import Settings

CPU = torch.device("cpu")


def test_the_headers_say_what_a_model_takes() -> None:
    found = read_folder(WEIGHTS)
    assert found.stored == torch.float32
    size = (WEIGHTS / "model.safetensors").stat().st_size
    assert size * 0.99 < found.bytes_in(torch.float32) < size
    assert found.bytes_in(torch.bfloat16) * 2 == found.bytes_in(torch.float32)


def test_a_model_that_does_not_fit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**20)
    monkeypatch.setattr(loading, "_from_folder", lambda *_: pytest.fail("it was read"))
    with pytest.raises(EngineError) as raised:
        registry.load(Settings())
    assert raised.value.message == (
        "model must fit into memory, needs about 4.3 MiB as float32, got 1.0 MiB free on cpu; "
        "give a half type (--dtype bfloat16), a smaller model, or --device-map auto, which spreads "
        "it over all devices and the disk"
    )


def test_control_groups_bound_what_is_free(tmp_path: Path) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    inner = groups / "a" / "b"
    inner.mkdir(parents=True)
    own.write_text("0::/a/b\n")
    for group, limit in ((groups / "a", "1000"), (inner, "max")):
        (group / "memory.max").write_text(limit)
        (group / "memory.current").write_text("700")
        (group / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert memory._allowed(groups, own) == 500
    (inner / "memory.max").write_text("600\n")
    assert memory._allowed(groups, own) == 100
    (inner / "memory.max").write_text("300\n")
    assert memory._allowed(groups, own) == 0


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    own, group = tmp_path / "own", tmp_path / "groups" / "memory" / "a"
    group.mkdir(parents=True)
    own.write_text("4:memory:/a\n3:cpu,cpuacct:/b\n")
    (group / "memory.limit_in_bytes").write_text("1000")
    (group / "memory.usage_in_bytes").write_text("400")
    (group / "memory.stat").write_text("total_inactive_file 50\n")
    assert memory._allowed(tmp_path / "groups", own) == 650


def test_without_control_groups_the_machine_alone_counts(tmp_path: Path) -> None:
    assert memory._allowed(tmp_path, tmp_path / "none") > 2**60
    free = memory.free_memory(CPU)
    assert free is not None and free > 2**20
