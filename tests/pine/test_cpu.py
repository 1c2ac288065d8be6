"""The compiled loops against plain torch, which `test_reading` compares with the oracle as well."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_llama

from kvedit import rotary
from kvedit.hf import open_door
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from pine import cpu, groups, reading
from pine.cpu import document_rows, loops, openmp, suffix_rows
from pine.cpu.cut import PIECE, Cut
from pine.reading import Pine
from pine.segments import Segments

HEADS, KV_HEADS, DIM, SCALING = 4, 2, 16, 0.25
INV_FREQ = 1000.0 ** (-torch.arange(6).float() / 6)  # of 16 dimensions 12 turn
HALF = RotaryGeometry(INV_FREQ)

# prefix, documents, suffix
CASES = [
    pytest.param((5, (40, 40, 40), 3), id="equal documents"),
    pytest.param((0, (7, 90, 1, 33, 34), 2), id="unequal documents, padded"),
    pytest.param((3, (300, 290), 2), id="two long ones, cut short"),
    pytest.param((2, (270, 3, 600, 5), 1), id="long ones between short ones"),
    pytest.param((70, (9,), 4), id="one document after a long prefix"),
]
LAYERS = [
    pytest.param(Layer(0, HALF, SCALING), id="half"),
    pytest.param(Layer(0, RotaryGeometry(INV_FREQ, "interleaved"), SCALING), id="interleaved"),
    pytest.param(Layer(0, None, SCALING), id="no positions"),
    pytest.param(Layer(0, HALF, SCALING, 3.0), id="capped"),
]


def read(case, layer: Layer, dtype=torch.float32, *, explain=False, steps=3, batch=1):
    """Return what all rows of a prompt and of some steps after it read, and the importance."""
    prefix, lengths, suffix = case
    documents = tuple((place,) * length for place, length in enumerate(lengths))
    pine = Pine(Segments((0,) * prefix, documents, (0,) * suffix), explain=explain)
    prompt = prefix + sum(lengths) + suffix
    generator = torch.Generator().manual_seed(1)
    qkv = [
        # scores of some size, so that documents differ in importance by more than rounding
        (2 * torch.randn(batch, heads, prompt + steps, DIM, generator=generator)).to(dtype)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    rows = [slice(0, prompt), *(slice(at, at + 1) for at in range(prompt, prompt + steps))]
    output = torch.cat([pine.read(layer, *(each[:, :, some] for each in qkv)) for some in rows], 2)
    return output, pine.report()["pine"].get("importance")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch):
    """Return `read` by plain torch."""

    def run(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "available", lambda query: False)
            return read(*arguments, **options)

    return run


@pytest.mark.parametrize("alone", [False, True], ids=["in groups", "each alone"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", CASES)
def test_loops_read_what_torch_reads(case, layer, alone, plain, monkeypatch) -> None:
    expected = plain(case, layer)
    if alone:  # then long documents come last in their own rows
        monkeypatch.setattr(groups, "BUDGET", 1)
    found = read(case, layer)
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_read_in_float32(dtype, plain) -> None:
    case, layer = (3, (300, 20, 20), 2), Layer(0, HALF, SCALING)
    expected, found = plain(case, layer, dtype), read(case, layer, dtype)
    torch.testing.assert_close(found[0], expected[0], atol=2e-2, rtol=1e-2)


def test_importance_is_told_in_decoding_too(plain) -> None:
    case, layer = (3, (30, 20, 41), 2), Layer(0, HALF, SCALING)
    expected, found = plain(case, layer, explain=True), read(case, layer, explain=True)
    assert found[1] == pytest.approx(expected[1], rel=1e-5)


def test_positions_beyond_the_table(monkeypatch: pytest.MonkeyPatch, plain) -> None:
    case, layer = (3, (30, 20, 41), 2), Layer(0, HALF, SCALING)
    expected = plain(case, layer)
    for module in (rotary, suffix_rows):
        monkeypatch.setattr(module, "TABLE_REACH", 50)
    torch.testing.assert_close(read(case, layer)[0], expected[0], atol=2e-5, rtol=0)


def test_several_batch_rows_decode_by_torch(plain) -> None:
    case, layer = (3, (30, 20, 41), 2), Layer(0, HALF, SCALING)
    expected, found = plain(case, layer, batch=2), read(case, layer, batch=2)
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_threads_changes_no_bit(case) -> None:
    layer, before, outputs = Layer(0, HALF, SCALING), torch.get_num_threads(), []
    decoded = sum(case[1]) + case[0] + case[2]  # products of matrices are torch's own affair
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs.append(read(case, layer)[0][:, :, decoded:])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_ties_keep_the_canonical_order() -> None:
    starts, count = np.empty(100, np.int64), 100
    weight = np.arange(count, dtype=np.float32) % 3
    loops.starts_of(weight, np.full(count, 2), 300, starts)
    ranked = sorted(range(count), key=lambda document: -weight[document])  # a stable sort
    assert np.argsort(-starts).tolist() == ranked


def test_the_exponential_is_exact_to_rounding_and_nothing_far_down() -> None:
    for power in np.linspace(-99, 0, 5001).astype(np.float32):
        assert loops.exp2(power) == pytest.approx(2.0 ** float(power), rel=3e-7)
    assert loops.exp2(np.float32(-np.inf)) == 0 == loops.exp2(np.float32(-101))


@pytest.mark.parametrize("numbers", [[1.5, -2, 0.25], [-3, -np.inf, -2.5], [-np.inf], [0.0, -0.0]])
def test_the_greatest_number(numbers) -> None:
    assert loops.greatest(np.array(numbers, np.float32)) == max(numbers)


def test_pieces_hold_all_tokens_once() -> None:
    cut = Cut.of([0, 300, 320], [300, 10])
    assert cut.pieces(5).tolist() == [[0, 0, PIECE], [0, PIECE, 44], [1, 300, 10], [-1, 0, PIECE]]
    assert len(cut.pieces(PIECE)) == 4
    assert len(cut.pieces(PIECE + 1)) == 5


def test_loops_run_on_the_threads_that_torch_has() -> None:
    library = openmp.library()
    assert library is not None
    assert Path(torch.__file__).parent.parent in Path(library).parents
    ctypes.CDLL(library).GOMP_parallel  # noqa: B018  it is there


def test_torchs_library_goes_before_those_of_other_packages(tmp_path, monkeypatch) -> None:
    own = Path(torch.__file__).parent
    loaded = [own.parent / "a.libs" / "libgomp-1.so", own / "lib" / "libgomp.so.1"]
    maps = tmp_path / "maps"
    maps.write_text("".join(f"7f00-7f10 r-xp 0 00:00 1 {path}\n" for path in loaded))
    monkeypatch.setattr(openmp, "MAPS", maps)
    assert openmp.library.__wrapped__() == str(loaded[1])


def test_loops_are_for_the_cpu_and_float32_at_most() -> None:
    assert cpu.available(torch.empty(1, 1, 1, 8))
    assert not cpu.available(torch.empty(1, 1, 1, 8, dtype=torch.float64))
    assert not cpu.available(torch.empty(1, 1, 1, 8, device="meta"))
    assert not cpu.available(torch.empty(1, 1, 1, 8, requires_grad=True))


def test_a_long_document_does_not_read_what_lies_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, attend = [], document_rows._Blocks._attend

    def watched(self, order, rows, query, keys, values):
        seen.append((rows.stop, keys.shape[2]))
        return attend(self, order, rows, query, keys, values)

    monkeypatch.setattr(document_rows._Blocks, "_attend", watched)
    monkeypatch.setattr(groups, "BUDGET", 1)  # each asks alone
    read((3, (300, 600), 0), Layer(0, HALF, SCALING), steps=0)
    assert [rows for rows, _ in seen] == [150, 300, 200, 400, 600]
    assert {keys - rows for rows, keys in seen[:2]} == {3 + 640}  # in pages
    assert {keys - rows for rows, keys in seen[2:]} == {3 + 320}


@torch.inference_mode()
def test_what_nobody_reads_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    door, layers = open_door(tiny_llama()), []
    rows = reading.document_rows

    def watched(layer, *rest):
        layers.append(layer.index)
        return rows(layer, *rest)

    monkeypatch.setattr(reading, "document_rows", watched)
    segments = Segments((1, 5), ((3, 4, 6), (7, 8), (9, 2, 3, 1)), (4, 4))
    ids, count = torch.tensor([segments.ids]), len(door.geometries)
    whole = door.forward(ids, Pine(segments), 0)
    assert layers == list(range(count))
    layers.clear()
    last = door.forward(ids, Pine(segments), 1)
    assert layers == list(range(count - 1))
    torch.testing.assert_close(last[:, -1], whole[:, -1], atol=1e-5, rtol=0)
    assert door.forward(ids, Pine(segments), None).shape[1] == 0


@torch.inference_mode()
def test_a_prompt_that_ends_with_its_documents_is_read_whole() -> None:
    door = open_door(tiny_llama())
    segments = Segments((1, 5), ((3, 4, 6), (7, 8), (9, 2, 3, 1)), ())
    ids = torch.tensor([segments.ids])
    whole, last = (door.forward(ids, Pine(segments), keep) for keep in (0, 1))
    torch.testing.assert_close(last[:, -1], whole[:, -1], atol=1e-5, rtol=0)


BITS = """
import hashlib
import torch
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from pine import cpu
from pine.reading import Pine
from pine.segments import Segments

assert cpu.prepare()
torch.set_num_threads(1)
layer = Layer(0, RotaryGeometry(1000.0 ** (-torch.arange(6).float() / 6)), 0.25)
for prefix, lengths, suffix in [(5, (40, 40, 40), 3), (0, (7, 90, 1, 33, 34), 2), (70, (9,), 4)]:
    documents = tuple((place,) * length for place, length in enumerate(lengths))
    pine = Pine(Segments((0,) * prefix, documents, (0,) * suffix))
    prompt = prefix + sum(lengths) + suffix
    made = torch.Generator().manual_seed(1)
    qkv = [2 * torch.randn(1, heads, prompt + 1, 16, generator=made) for heads in (4, 2, 2)]
    for rows in (slice(0, prompt), slice(prompt, prompt + 1)):
        bits = pine.read(layer, *(each[:, :, rows] for each in qkv)).numpy().tobytes()
        print(hashlib.sha256(bits).hexdigest())
"""


def test_a_process_that_compiles_computes_the_same_bits_as_one_that_loads(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run() -> str:
        command = [sys.executable, "-c", BITS]
        return subprocess.run(
            command, env=environment, text=True, capture_output=True, check=True
        ).stdout

    compiled = run()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nbc")}
    loaded = run()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nbc")} == kept != {}
    assert loaded == compiled
