"""The GPU kernels, run on the CPU by Triton's interpreter: the oracle, the torch path, order.

On a machine with CUDA the same tests run the compiled kernels.
"""

import functools
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from oracles import PineOracle, Rotary, unmoved
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry, turn
from kvedit.state import State, merge
from pine import cpu, gpu
from pine.reading import Pine
from pine.segments import Segments

pytest.importorskip("triton")

from pine.gpu import launch
from pine.gpu import plan as plan_module
from pine.gpu.plan import Plan, Tile

HEADS, KV_HEADS, SCALING = 2, 1, 0.5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Case:
    """One prompt's cut and one layer: prefix, documents and suffix in tokens."""

    prefix: int
    sizes: tuple[int, ...]
    suffix: int
    dim: int = 16
    turning: int = 8
    layout: str = "half"
    softcap: float | None = None
    heads: int = HEADS
    batch: int = 1

    @property
    def end(self) -> int:
        return self.prefix + sum(self.sizes)

    @property
    def layer(self) -> Layer:
        inv_freq = 100.0 ** (-torch.arange(self.turning, device=DEVICE).float() / self.turning)
        geometry = RotaryGeometry(inv_freq, self.layout) if self.turning else None
        return Layer(0, geometry, SCALING, self.softcap)

    def tensors(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, ...]:
        """Return queries, keys and values, not rotated."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.randn(self.batch, h, self.end + self.suffix, self.dim, generator=generator)
            .to(dtype)
            .to(DEVICE)
            for h in (self.heads, KV_HEADS, KV_HEADS)
        )

    def expected(self, qkv: tuple[Tensor, ...]) -> Tensor:
        """Return the rows after the prefix by the oracle, in float64."""
        geometry = self.layer.geometry
        rotary = Rotary(geometry.inv_freq.cpu(), geometry.layout) if geometry else unmoved
        oracle = PineOracle(self.prefix, list(self.sizes), rotary, SCALING, self.softcap)
        rows = [oracle.attention(*(x[b].cpu() for x in qkv)) for b in range(self.batch)]
        return torch.stack(rows)[:, :, self.prefix :]


def cut(case: Case, qkv: tuple[Tensor, ...], gap: int = 3) -> tuple[Plan, launch.Keys]:
    """Lay the documents' keys into slots with a gap of poison after each one."""
    query, key, value = qkv
    sizes = case.sizes
    slots = [sum(sizes[:d]) + gap * d for d in range(len(sizes))]
    spans = [torch.arange(case.prefix), *(torch.arange(n) for n in sizes)]
    spans.append(torch.arange(case.end, case.end + case.suffix))
    framed = turn(case.layer.geometry, key, torch.cat(spans).to(DEVICE))
    taken = torch.cat([slot + torch.arange(n) for slot, n in zip(slots, sizes, strict=True)])
    outside = torch.cat([spans[0], spans[-1]]).to(DEVICE)

    def laid(tokens: Tensor) -> Tensor:
        shape = (*tokens.shape[:2], sum(sizes) + gap * len(sizes), tokens.shape[-1])
        room = tokens.new_full(shape, torch.nan)
        room[:, :, taken.to(DEVICE)] = tokens[:, :, case.prefix : case.end]
        return room

    keys = launch.Keys(
        laid(key), laid(framed), laid(value), framed[:, :, outside], value[:, :, outside]
    )
    return Plan.of(case.prefix, sizes, slots, query), keys


def run(case: Case, qkv: tuple[Tensor, ...]) -> Tensor:
    """Return the rows after the prefix by the kernels."""
    (plan, keys), query = cut(case, qkv), qkv[0]
    documents = query[:, :, case.prefix : case.end]
    rows = [
        launch.document_rows(case.layer, plan, keys, documents),
        launch.suffix_rows(case.layer, plan, keys, query[:, :, case.end :], case.end),
    ]
    return torch.cat(rows, 2)


CASES = [
    pytest.param(Case(3, (5, 2), 4), id="two documents"),
    pytest.param(Case(2, (4, 7, 3), 3, heads=4), id="three documents, grouped heads"),
    pytest.param(Case(0, (4, 3, 3), 2), id="no prefix"),
    pytest.param(Case(3, (4, 3, 6), 0), id="no suffix"),
    pytest.param(Case(2, (6,), 2), id="one document"),
    pytest.param(Case(1, (1, 1, 1), 1), id="documents of one token"),
    pytest.param(Case(20, (40, 1, 3), 2), id="very unequal documents, several tiles"),
    pytest.param(Case(2, (3, 5, 4), 20), id="a suffix of several tiles"),
    pytest.param(Case(2, (4, 7, 3), 2, turning=4), id="partial rotary"),
    pytest.param(Case(2, (4, 7, 3), 2, layout="interleaved"), id="interleaved"),
    pytest.param(Case(2, (4, 5), 2, turning=3, layout="interleaved"), id="partial interleaved"),
    pytest.param(Case(2, (4, 5, 3), 2, dim=24, turning=12), id="width not a power of two"),
    pytest.param(Case(2, (4, 5), 2, dim=24, turning=5), id="partial, not a power of two"),
    pytest.param(Case(2, (4, 5, 3), 2, turning=0), id="no positions"),
    pytest.param(Case(2, (4, 7, 3), 2, softcap=0.7), id="soft cap"),
    pytest.param(Case(2, (4, 5), 2, softcap=1e4), id="soft cap out of reach"),
    pytest.param(Case(2, (3, 5, 2), 2, batch=2), id="two rows in a batch"),
]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiles of 16 by 16 and pieces of 16 tokens, so that small prompts have several."""
    monkeypatch.setattr(Tile, "of", lambda query, rows, keys: Tile(16, 16, 4, 2))
    for module in (plan_module, launch):
        monkeypatch.setattr(module, "PIECE", 16)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(case: Case) -> None:
    qkv = case.tensors()
    found = run(case, qkv)
    torch.testing.assert_close(found.cpu().double(), case.expected(qkv), atol=5e-6, rtol=0)


def test_tiles_as_chosen_equal_the_torch_path() -> None:
    case = Case(70, (90, 20, 33), 9)
    qkv = case.tensors()
    segments = Segments((0,) * 70, tuple((d,) * n for d, n in enumerate(case.sizes)), (0,) * 9)
    expected = Pine(segments).read(case.layer, *qkv)[:, :, case.prefix :]
    torch.testing.assert_close(run(case, qkv), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_as_stock_attention_does(dtype: torch.dtype) -> None:
    """As SDPA does, the kernels round what they multiply once; plain torch reads in float32."""
    case = Case(5, (12, 20), 4, batch=8)  # of two documents, none changes places by rounding
    query, key, value = case.tensors(dtype)

    def error(found: Tensor, exact: Tensor) -> float:
        return ((found.cpu().double() - exact.cpu()).norm() / exact.norm()).item()

    def stock(*qkv: Tensor) -> Tensor:
        return scaled_dot_product_attention(*qkv, is_causal=True, scale=SCALING, enable_gqa=True)

    places = torch.arange(query.shape[2], device=DEVICE)
    turned = [turn(case.layer.geometry, each.float(), places) for each in (query, key)]
    theirs = error(
        stock(*(each.to(dtype) for each in turned), value),
        stock(*(each.double() for each in (*turned, value))),
    )
    qkv = query, key, value
    assert error(run(case, qkv), case.expected(qkv)) <= 1.3 * theirs


@pytest.mark.usefixtures("small_tiles")
def test_one_new_token_is_split_over_pieces_whose_states_merge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(3, (20, 4, 9), 5, heads=4)
    qkv = case.tensors()
    plan, keys = cut(case, qkv)
    last = qkv[0][:, :, -1:]
    place = torch.tensor([16, 12, 3], dtype=torch.int32, device=DEVICE)
    place = place.expand(1, 4, 1, 3).contiguous(), case.end + case.suffix - 1
    parts = launch.read_suffix(case.layer, plan, keys, last, place)
    assert parts.weight_log.shape[-1] == 5  # two of the first document, one each, one outside
    monkeypatch.setattr(launch, "PROGRAMS", 1)
    whole = launch.read_suffix(case.layer, plan, keys, last, place)
    assert whole.weight_log.shape[-1] == 1
    pairs = zip(parts.output.unbind(3), parts.weight_log.unbind(3), strict=True)
    merged = functools.reduce(merge, [State(*pair) for pair in pairs])
    torch.testing.assert_close(merged.output, whole.output[:, :, :, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(merged.weight_log, whole.weight_log[..., 0], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logs_of_documents_are_those_of_scores_without_positions(dtype: torch.dtype) -> None:
    """Products of half precision are exact in float32: importance is scored in float32."""
    case = Case(2, (18, 3, 5), 2, softcap=2.0)
    query, key, value = case.tensors(dtype)
    plan, keys = cut(case, (query, key, value))
    logs = launch.document_logs(case.layer, plan, keys, query)
    product = 2 * torch.tanh(query.double() @ key.double().mT * SCALING / 2)
    spans = product[..., case.prefix : case.end].split(list(case.sizes), -1)
    expected = torch.stack([span.logsumexp(-1) for span in spans], -1)
    torch.testing.assert_close(logs.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("small_tiles")
def test_permuting_documents_leaves_every_bit() -> None:
    """Canonical order gives equal inputs: what the kernels must add is equal work for them."""
    texts = [tuple(range(9)), (4, 4, 4), (7, 2)]
    table = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))
    found = []
    for order in itertools.islice(itertools.permutations(texts), 0, 6, 2):
        segments = Segments((1, 2), tuple(order), (3, 5)).canonical()
        case = Case(2, segments.lengths, 2)
        ids = torch.tensor(segments.ids)
        rows = [table[x, ids].expand(1, heads, -1, -1) for x, heads in enumerate((HEADS, 1, 1))]
        found.append(run(case, tuple(row.to(DEVICE) for row in rows)))
    assert len(found) == 3
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_pine_reads_through_the_kernels_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(3, (9, 4, 6), 2)
    qkv = case.tensors()
    segments = Segments((0,) * 3, ((0,) * 9, (1,) * 4, (2,) * 6), (0,))

    def rows() -> Tensor:
        reading, ends = Pine(segments), (case.end + 1, case.end + 2)
        spans = (slice(0, ends[0]), slice(*ends))
        return torch.cat([reading.read(case.layer, *(x[:, :, s] for x in qkv)) for s in spans], 2)

    expected, launched = rows(), []
    original = launch._run
    monkeypatch.setattr(gpu, "available", lambda query: True)
    monkeypatch.setattr(cpu, "available", lambda query: False)  # as it is on a GPU
    monkeypatch.setattr(launch, "_run", lambda *a: (launched.append(a[0].__name__), original(*a)))
    torch.testing.assert_close(rows(), expected, atol=1e-5, rtol=0)
    assert {"document_rows", "suffix_rows"} <= set(launched)


def test_tiles_fit_what_is_asked_and_what_the_machine_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = torch.empty(1, 1, 1, 128, dtype=torch.bfloat16)
    assert Tile.of(query, 512, 512) == Tile(128, 64, 8, 3)
    assert Tile.of(query, 1, 5) == Tile(16, 16, 4, 3)
    assert Tile.of(query.float(), 512, 512).rows < 128
    monkeypatch.setattr(plan_module, "shared_memory", lambda device: 99_000)
    assert Tile.of(query, 512, 512) == Tile(64, 32, 8, 2)


def test_the_kernels_are_for_cuda_alone() -> None:
    assert not gpu.available(torch.empty(1, 1, 1, 64))
    assert not gpu.available(torch.empty(1, 1, 1, 64, dtype=torch.float64, device="meta"))


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pine.gpu import device

NUMBERS = "query key value outside_key outside_value output raw".split()
FLOATS = "inv_freq partial weight_log logs weight".split()
INTEGERS = "starts first_slot first_token lengths tile_document tile_first".split()
TYPES = dict.fromkeys(NUMBERS, "*bf16") | dict.fromkeys(FLOATS, "*fp32")
TYPES |= dict.fromkeys([*INTEGERS, "piece_document", "piece_first", "piece_count"], "*i32")
TYPES |= dict.fromkeys(["scale", "cap"], "fp32")
SHAPE = {"dim": 16, "width": 16, "turning": 4, "interleaved": False, "capped": True}
SHAPE |= {"interpreted": False, "rows": 16, "keys": 16, "piece": 16, "length": 1, "prefix": 1}
for kernel in ("document_rows", "suffix_rows", "document_logs", "document_importance"):
    kernel = getattr(device, kernel)
    shape = {name: SHAPE[name] for name in kernel.arg_names if name in SHAPE}
    types = {name: TYPES.get(name, "i32") for name in kernel.arg_names}
    types |= {name: ("i32",) * 3 for name in types if name.endswith("strides")}
    types |= dict.fromkeys(shape, "constexpr")
    source = ASTSource(kernel, types, shape)
    built = compile(source, GPUTarget("cuda", 80, 32), {"enable_fp_fusion": True})
    print(kernel.__name__, len(built.asm["cubin"]))
"""


def test_the_kernels_compile_for_a_gpu(tmp_path) -> None:
    """The interpreter takes more than the compiler does: types of branches, for one."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
