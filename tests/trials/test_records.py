"""The record of a run: taken up where it was left, and never mixed with anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import EngineError, PlanError
from trials.records import BEGINNING, Records

RUN = {"evenhand": "1", "model": "m", "stages": [{"stage": "swap"}], "seed": None}


def written(path: Path, count: int, run: dict[str, Any] = RUN) -> bytes:
    records = Records(path, run)
    for index in range(count):
        records.add(f"k{index}", {"id": str(index), "text": "é\u2028\n"})
    records.close()
    return path.read_bytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 4), cut=st.integers(0, 10**6))
def test_whatever_a_crash_leaves_the_whole_lines_are_taken_up(
    tmp_path: Path, count: int, cut: int
) -> None:
    path = tmp_path / "out.jsonl"
    path.unlink(missing_ok=True)
    data = written(path, count)
    kept = data[: cut % (len(data) + 1)]
    path.write_bytes(kept)
    records = Records(path, RUN)
    whole = kept.count(b"\n")
    assert list(records.done) == [f"k{index}" for index in range(whole)]
    for index in range(whole, count):
        records.add(f"k{index}", {"id": str(index), "text": "é\u2028\n"})
    records.close()
    assert path.read_bytes() == data


def test_each_line_is_json_with_its_settings(tmp_path: Path) -> None:
    data = written(tmp_path / "new" / "out.jsonl", 2)
    second = data.splitlines()[1]
    assert data.startswith(BEGINNING)
    assert json.loads(second) == {"run": RUN, "key": "k1", "id": "1", "text": "é\u2028\n"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "other"}, 'of one with model "m", not "other"'),
        ({"stages": []}, 'of one with stages [{"stage": "swap"}], not []'),
        ({"form": "score"}, 'of one with form null, not "score"'),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "out.jsonl"
    data = written(path, 1) + b"torn"
    path.write_bytes(data)
    with pytest.raises(PlanError) as caught:
        Records(path, {**RUN, **change})
    assert said in caught.value.message
    assert path.read_bytes() == data
    Records(path, RUN).close()  # it was let go of


@pytest.mark.parametrize("data", [b"hello", b"{}\n", b'{"id": 1}', b"\n", b'[1]\n{"run":'])
def test_a_file_of_another_kind_is_refused_and_not_cut(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(data)
    with pytest.raises(PlanError, match="out file must be new, or of an earlier run"):
        Records(path, RUN)
    assert path.read_bytes() == data


def test_two_runs_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first = Records(path, RUN)
    with pytest.raises(PlanError, match="one run at a time"):
        Records(path, RUN)
    first.close()
    Records(path, RUN).close()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="must be one that can be written"):
        Records(tmp_path, RUN)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    records = Records(tmp_path / "out.jsonl", RUN)
    records._file.close()
    with Path("/dev/full").open("wb", buffering=0) as records._file:
        with pytest.raises(EngineError, match="out file must take another line"):
            records.add("k", {})
        assert records.done == {}
        records.close()


def test_standard_output_is_not_continued(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    records = Records(Path("-"), RUN)
    records.add("k", {"id": "0"})
    records.close()
    assert json.loads(capfdbinary.readouterr().out)["id"] == "0"


def test_nowhere_is_a_place(tmp_path: Path) -> None:
    records = Records(None, RUN)
    records.add("k", {"id": "0"})
    records.close()
    assert records.done["k"]["id"] == "0"
