import ctypes
from pathlib import Path

import pytest
import torch

from kvedit.executors import cpu
from kvedit.executors.cpu import openmp


def test_loops_run_on_the_threads_that_torch_has() -> None:
    library = openmp.library()
    assert library is not None
    assert Path(torch.__file__).parent.parent in Path(library).parents
    ctypes.CDLL(library).GOMP_parallel  # noqa: B018  it is there


def test_torchs_library_goes_before_those_of_other_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(torch.__file__).parent
    loaded = [own.parent / "a.libs" / "libgomp-1.so", own / "lib" / "libgomp.so.1"]
    maps = tmp_path / "maps"
    maps.write_text("".join(f"7f00-7f10 r-xp 0 00:00 1 {path}\n" for path in loaded))
    monkeypatch.setattr(openmp, "MAPS", maps)
    assert openmp.library.__wrapped__() == str(loaded[1])


def test_loops_are_for_float32_at_most() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert cpu.refusal(dtype) is None
    assert cpu.refusal(torch.float64) == "its loops are for float32 at most, got float64"


def test_without_torchs_threads_there_are_no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "library", lambda: None)
    assert cpu.refusal(torch.float32) == "torch's OpenMP library is not known"


def test_without_numba_there_are_no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "find_spec", lambda name: None)
    assert cpu.refusal(torch.float32) == "numba is not installed"
