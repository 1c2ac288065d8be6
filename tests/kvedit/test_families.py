"""Every family that the README lists: its verdict, its readings, and faults planted in it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import SHAPE, in_dtype, sharpen
from torch import Tensor
from transformers import PhimoeConfig, PhimoeForCausalLM, PreTrainedModel

from benchmarks._families import FAMILIES, Family
from benchmarks.families import Verdict, described, markdown, measure
from kvedit import hf
from kvedit.hf import open_door
from kvedit.rotary import RotaryGeometry

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- families -->", "<!-- /families -->"
BY_NAME = {family.name: family for family in FAMILIES}
HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALVES)
Measure = Callable[[Family], Verdict]


@pytest.fixture(scope="module")
def verdict() -> Measure:
    """Return `measure`, which measures each family once."""
    seen: dict[Family, Verdict] = {}

    def once(family: Family) -> Verdict:
        if family not in seen:
            seen[family] = measure(family)
        return seen[family]

    return once


@pytest.mark.parametrize("family", FAMILIES, ids=BY_NAME)
def test_the_verdict_and_what_the_readings_do(family: Family, verdict: Measure) -> None:
    seen = verdict(family)
    if family.why:
        refusal = seen.unsuited if family.narrow else seen.refusal
        assert refusal is not None
        assert family.reason in refusal
        if not family.narrow:
            return
    assert seen.refusal is None
    assert seen.plain < 5e-6
    if family.narrow:
        return
    assert seen.pine < 5e-6
    assert seen.moved > 0.05  # or the two above would not see positions at all
    assert seen.bitwise


def test_the_readme_lists_what_the_gate_decides(verdict: Measure) -> None:
    """The block is the output of `python benchmarks/families.py --markdown`."""
    text = README.read_text()
    assert text.count(START) == text.count(END) == 1, f"the README needs {START} and {END}"
    block = text.split(START)[1].split(END)[0]
    measured = markdown({family: verdict(family) for family in FAMILIES})
    assert block.strip() == measured


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", FAMILIES, ids=BY_NAME)
def test_the_verdict_is_the_same_in_half_precision(
    family: Family, dtype: torch.dtype, verdict: Measure
) -> None:
    door = open_door(in_dtype(family.build(), dtype))
    assert (door.refusal is None) == (not family.why or family.narrow)
    if family.why and not family.narrow:
        assert family.reason in str(door.refusal)
    else:
        found = ", ".join(dict.fromkeys(map(described, door.layers)))
        assert found == verdict(family).geometry


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("Llama 2, 3", "16 half"),
        ("Phi-1, Phi-2 (partial rotary)", "8 half"),
        ("GLM", "8 interleaved"),
        ("Cohere 2, context within the window", "16 interleaved, no positions"),
        ("SmolLM3 (layers without positions)", "16 half, no positions"),
    ],
)
def test_the_geometry_is_the_familys(name: str, geometry: str, verdict: Measure) -> None:
    assert verdict(BY_NAME[name]).geometry == geometry


def test_gemma_3_has_one_geometry_per_layer_type() -> None:
    door = open_door(BY_NAME["Gemma 3, context within the window"].build())
    sliding, full = door.geometries
    assert sliding is not None and full is not None
    assert sliding.inv_freq[-1] > 10 * full.inv_freq[-1]


PLANTED = (
    "Llama, linear scaling",
    "Llama, yarn scaling",
    "Qwen3",
    "Gemma 3, context within the window",
    "Cohere (Command R)",
    "Phi-4-mini (partial rotary)",
    "GPT-NeoX, Pythia (partial rotary)",
    "GLM",
)
PARTIAL = PLANTED[-3:]


def wrong(right: RotaryGeometry, fault: str) -> RotaryGeometry:
    """Return a geometry with a planted fault; "scaling" is the family's own once more, or by 4."""
    inv_freq, width = right.inv_freq, right.width
    if fault == "layout":
        return RotaryGeometry(inv_freq, "half" if right.layout == "interleaved" else "interleaved")
    if fault == "narrow":
        return RotaryGeometry(inv_freq[: width // 4], right.layout)
    if fault == "wide":
        return RotaryGeometry(torch.cat([inv_freq, inv_freq]), right.layout)
    unscaled = 10000.0 ** (-torch.arange(0, width, 2).float() / width)
    once = 0.25 if torch.allclose(inv_freq, unscaled, rtol=0.01) else inv_freq / unscaled
    return RotaryGeometry(inv_freq * once, right.layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, fault) for name in PLANTED for fault in ("layout", "narrow", "scaling")]
    + [(name, "wide") for name in PARTIAL],
)
def test_a_wrong_candidate_is_never_taken(
    name: str, fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_dtype(BY_NAME[name].build(), dtype)
    right = [each for each in open_door(model).geometries if each is not None]
    assert right
    monkeypatch.setattr(hf, "_candidates", lambda model: [wrong(each, fault) for each in right])
    refusal = open_door(model).refusal
    assert refusal is not None
    assert "no rotary layout reproduces the queries and keys of layer 0" in refusal


def interleaved_half(x: torch.Tensor) -> torch.Tensor:
    """Return what `rotate_half` would be if neighbours were pairs."""
    return torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)


def plant(model: PreTrainedModel, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a model rotate otherwise than its own frequencies say."""
    written = sys.modules[type(model).__module__]
    if fault == "layout":
        monkeypatch.setattr(written, "rotate_half", interleaved_half)
        return
    if fault == "scaling":
        rotary = model.model.rotary_emb
        forward = rotary.forward
        monkeypatch.setattr(
            rotary, "forward", lambda x, position_ids: forward(x, position_ids=position_ids / 4)
        )
        return
    rotated = written.apply_rotary_pos_emb

    def narrow(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        short = [torch.cat([x[..., :4], x[..., :4]], -1) for x in (cos, sin)]
        turned = rotated(query[..., :8], key[..., :8], *short)
        rest = (query[..., 8:], key[..., 8:])
        return [torch.cat(pair, -1) for pair in zip(turned, rest, strict=True)]

    monkeypatch.setattr(written, "apply_rotary_pos_emb", narrow)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", ["layout", "width", "scaling"])
@pytest.mark.parametrize("name", ["Llama 2, 3", "Llama, yarn scaling", "Qwen3", "Granite"])
def test_a_model_that_rotates_otherwise_is_refused(
    name: str, fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_dtype(BY_NAME[name].build(), dtype)
    assert open_door(model).refusal is None
    plant(model, fault, monkeypatch)
    refusal = open_door(model).refusal
    assert refusal is not None
    assert "no rotary layout reproduces the queries and keys of layer 0" in refusal


def with_outliers(size: float, dtype: torch.dtype) -> PreTrainedModel:
    """Return a Qwen2 with some dimensions of queries and keys far greater than the others.

    Trained ones are like that: scores in the hundreds, whose rounding is seen in the logits.
    """
    model = sharpen(BY_NAME["Qwen2, Qwen2.5"].build(), 0)
    for layer in model.model.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            bias = torch.zeros(part.bias.shape).view(-1, 16)
            bias[:, 3], bias[:, 7], bias[:, 15] = size / 3, size, -size
            part.bias.data = bias.flatten()
    return in_dtype(model, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_outliers_among_the_dimensions_are_no_reason_to_refuse(dtype: torch.dtype) -> None:
    assert open_door(with_outliers(30.0, dtype)).refusal is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_outliers_hide_no_fault_in_the_other_dimensions(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_outliers(30.0, dtype)
    right = open_door(model).geometries[0]
    assert right is not None
    faster = RotaryGeometry(right.inv_freq * torch.tensor([1.01, *[1.0] * 7]))
    monkeypatch.setattr(hf, "_candidates", lambda model: [faster])
    assert "no rotary layout" in str(open_door(model).refusal)


@pytest.mark.parametrize("window", [64, 512])
def test_windows_that_only_the_mask_knows_are_seen(window: int) -> None:
    """Phi-MoE builds a window's mask and does not tell the attention function."""
    config = PhimoeConfig(**SHAPE, num_local_experts=2, sliding_window=window)
    refusal = open_door(sharpen(PhimoeForCausalLM(config), 0)).refusal
    assert refusal == (
        "PhimoeForCausalLM: layers [0, 1] see only a part of the text" if window < 512 else None
    )
