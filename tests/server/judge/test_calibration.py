"""Slot biases are counted exactly, by whoever observes, and outlive the process."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import EngineError
from server.judge.calibration import Bias, BiasKey, Calibration

KEY = BiasKey("pocket", "plain", "relation", "A,B", "pine")
ROOT = Path(__file__).parents[3]
START = f"""
from pathlib import Path
from server.judge.calibration import BiasKey, Calibration
key = {KEY!r}
store = Calibration(Path(FILE))
"""
ENDLESS = """
observed = 0
while True:
    store.observe(key, 1.0 if observed % 2 else -1.0)
    observed += 1
    print(observed, flush=True)
"""
COUNTED = """
print("open", flush=True)
input()
for _ in range(500):
    store.observe(key, 1.0)
"""

biases = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)


def started(file: Path, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START.replace("FILE", repr(str(file))) + code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def known(store: Calibration) -> Bias:
    """Return the bias of the key, which must have been observed."""
    bias = store.of(KEY)
    assert bias is not None
    return bias


@given(biases)
def test_mean_and_standard_error_are_numpys(values: list[float]) -> None:
    with closing(Calibration(None)) as store:
        for value in values:
            store.observe(KEY, value)
        bias = known(store)
    assert bias.count == len(values)
    assert bias.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    if len(values) == 1:
        assert bias.standard_error is None
    else:
        expected = np.std(values, ddof=1) / math.sqrt(len(values))
        assert bias.standard_error == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_large_mean_does_not_drown_its_spread() -> None:
    values = [1e8 + step / 10 for step in range(100)]
    with closing(Calibration(None)) as store:
        for value in values:
            store.observe(KEY, value)
        error = known(store).standard_error
    assert error == pytest.approx(np.std(values, ddof=1) / 10, rel=1e-5)


@given(st.dictionaries(st.builds(BiasKey, *[st.sampled_from("ab")] * 5), biases, max_size=6))
def test_keys_do_not_mix(observed: dict[BiasKey, list[float]]) -> None:
    with closing(Calibration(None)) as store:
        for place in range(40):
            for key, values in observed.items():
                if place < len(values):
                    store.observe(key, values[place])
        assert store.of(BiasKey("c", "a", "a", "a", "a")) is None
        known = store.all()
        assert {key: bias.count for key, bias in known.items()} == {
            key: len(values) for key, values in observed.items()
        }
        assert all(store.of(key) == bias for key, bias in known.items())


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "new" / "biases.db"
    for bias in (0.5, -0.25, 1.0):
        with closing(Calibration(file)) as store:
            store.observe(KEY, bias)
    with closing(Calibration(file)) as store:
        assert known(store).count == 3
        assert known(store).mean == pytest.approx(1.25 / 3)


def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    with started(tmp_path / "biases.db", ENDLESS) as process:
        assert process.stdout is not None
        heard = [process.stdout.readline() for _ in range(200)]
        os.kill(process.pid, signal.SIGKILL)
        heard += process.stdout.readlines()
    acknowledged = int([line for line in heard if line.endswith("\n")][-1])
    with closing(Calibration(tmp_path / "biases.db")) as store:
        bias = known(store)
    assert bias.count in (acknowledged, acknowledged + 1)  # one may lack its line
    assert bias.mean == pytest.approx(-(bias.count % 2) / bias.count, abs=1e-12)


def test_processes_may_observe_at_once(tmp_path: Path) -> None:
    processes = [started(tmp_path / "biases.db", COUNTED) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    with closing(Calibration(tmp_path / "biases.db")) as store:
        assert (known(store).count, known(store).mean) == (1000, 1.0)


def test_threads_and_stores_may_observe_at_once(tmp_path: Path) -> None:
    file = tmp_path / "biases.db"

    def work(store: Calibration) -> None:
        for _ in range(100):
            store.observe(KEY, 2.0)

    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: Calibration(file), range(4)))
        list(pool.map(work, [*stores, *[stores[0]] * 4]))
    assert known(stores[-1]).count == 800
    for store in stores:
        store.close()


def test_a_new_file_may_be_opened_by_all_in_the_same_moment(tmp_path: Path) -> None:
    barrier = Barrier(4)

    def work(file: Path) -> None:
        barrier.wait()
        with closing(Calibration(file)) as store:
            store.observe(KEY, 1.0)

    with ThreadPoolExecutor(4) as pool:
        for turn in range(25):
            file = tmp_path / f"{turn}.db"
            list(pool.map(work, [file] * 4))
            with closing(Calibration(file)) as store:
                assert known(store).count == 4


@pytest.mark.parametrize("bias", [math.nan, math.inf, -math.inf])
def test_a_bias_must_be_finite(bias: float) -> None:
    with closing(Calibration(None)) as store:
        with pytest.raises(EngineError, match=r"slot bias must be finite, got .*; ask"):
            store.observe(KEY, bias)
        assert store.of(KEY) is None


def refused(file: Path) -> None:
    with pytest.raises(EngineError) as caught:
        Calibration(file)
    message = caught.value.message
    assert message.startswith("calibration file must be a writable store of slot biases, got ")
    assert repr(str(file)) in message
    assert "\n" not in message


def test_a_file_that_is_no_store_is_refused_at_once_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, and longer than the header of one: " * 10)
    before = file.read_bytes()
    refused(file)
    assert file.read_bytes() == before


def test_a_damaged_store_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "biases.db"
    with closing(Calibration(file)) as store:
        for place in range(500):
            store.observe(BiasKey(str(place), "plain", "relation", "A,B", "pine"), 1.0)
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(data)
    refused(file)


def test_another_programs_table_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "biases.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE slot_bias (a)")
    refused(file)


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    refused(tmp_path)  # a folder
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "biases.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_store_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "biases.db"
    Calibration(file).close()
    file.chmod(0o444)
    refused(file)  # though its folder takes a write-ahead log
    tmp_path.chmod(0o555)
    refused(file)
    tmp_path.chmod(0o755)


def test_a_fault_while_running_is_one_sentence_too(tmp_path: Path) -> None:
    file = tmp_path / "biases.db"
    with closing(Calibration(file)) as store:
        with closing(sqlite3.connect(file)) as other:
            other.execute("DROP TABLE slot_bias")
        with pytest.raises(EngineError, match="calibration file must be"):
            store.observe(KEY, 1.0)


def test_a_store_of_before_keeps_its_rows_and_takes_more(tmp_path: Path) -> None:
    file = tmp_path / "biases.db"
    with closing(sqlite3.connect(file)) as before:
        before.execute(
            "CREATE TABLE slot_bias (model TEXT, template TEXT, form TEXT, labels TEXT, "
            "reading TEXT, count INTEGER NOT NULL, mean REAL NOT NULL, squares REAL NOT NULL, "
            "PRIMARY KEY (model, template, form, labels, reading)) WITHOUT ROWID"
        )
        row = (KEY.model, KEY.template, KEY.form, KEY.labels, KEY.reading, 7, 0.25, 1.5)
        before.execute("INSERT INTO slot_bias VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        before.execute("PRAGMA user_version = 1")
        before.commit()
    for _ in range(2):
        with closing(Calibration(file)) as store:
            assert (known(store).count, known(store).mean) == (7, 0.25)
            store.observe(KEY, -2.0, "tie_odds")
    with closing(Calibration(file)) as store:
        of_ties = store.of(KEY, "tie_odds")
        assert of_ties is not None
        assert (of_ties.count, of_ties.mean) == (2, -2.0)
        assert known(store).count == 7  # habits do not mix


def test_a_fit_is_kept_across_restarts_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "biases.db"
    with closing(Calibration(file)) as store:
        assert store.fit("key") is None
        store.keep("key", {"method": "temperature", "temperature": 3.0})
        store.keep("key", {"method": "temperature", "temperature": 2.5})
    with closing(Calibration(file)) as store:
        assert store.fit("key") == {"method": "temperature", "temperature": 2.5}
        assert store.fit("other") is None
