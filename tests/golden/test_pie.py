"""PIE as an independent computation has it: three kinds of edits, and three places at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edits import EditedText, held
from reads import each_executor
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from kvedit.diff import Hunk, apply
from kvedit.executors import Executor
from kvedit.executors.choice import Choice
from kvedit.executors.torch import TorchExecutor
from kvedit.hf import Door, open_door

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "pie"
TOLERANCE = 1e-4
CASES = ("insertion", "deletion", "replacement", "multi")

pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the golden vectors are not beside the project"
)

Golden = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=["model_mha", "model_gqa_llama3"])
def known(request: pytest.FixtureRequest) -> tuple[Door, Golden]:
    name = request.param
    model = LlamaForCausalLM(LlamaConfig.from_json_file(str(GOLDEN / f"{name}.config.json")))
    model.load_state_dict(load_file(GOLDEN / f"{name}.safetensors"))
    opened = open_door(model.float().eval(), TorchExecutor())
    assert opened.refusal is None
    return opened, dict(np.load(GOLDEN / f"{name}.golden.npz"))


@pytest.fixture(scope="module")
def meta() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "meta.json").read_text())
    return found


def edited(door: Door, meta: dict[str, Any], case: str, executor: Executor) -> EditedText:
    """Return the text after an edit of the paper: nothing is healed."""
    own = Door(door.model, door.layers, Choice(executor, {}), None)
    text = EditedText(own, meta["old_ids"])
    text.edit([Hunk(start, stop, tuple(ids)) for start, stop, ids in meta["cases"][case]])
    return text


@each_executor
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_the_cache_after_an_edit(
    executor: Executor, case: str, known: tuple[Door, Golden], meta: dict[str, Any]
) -> None:
    door, golden = known
    text = edited(door, meta, case, executor)
    assert text.ids == golden[f"{case}_ids"].tolist()
    for layer, (keys, values) in enumerate(held(text.reading)):
        for kind, found in (("k", keys), ("v", values)):
            for suffix in ("", "_f64"):
                expected = golden[f"{case}_pie_{kind}_l{layer}{suffix}"]
                np.testing.assert_allclose(found.numpy(), expected, atol=TOLERANCE, rtol=0)


@each_executor
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_what_is_predicted_after_an_edit(
    executor: Executor, case: str, known: tuple[Door, Golden], meta: dict[str, Any]
) -> None:
    """The last token is fed again; or another one behind a text whose last one stays as it was."""
    door, golden = known
    fed_again = edited(door, meta, case, executor).predict()
    appended = edited(door, meta, case, executor).step(meta["append_token"])
    for how, logits in (("refeed", fed_again), ("append", appended)):
        for suffix in ("", "_f64"):
            expected = golden[f"{case}_pie_logits_{how}{suffix}"]
            np.testing.assert_allclose(logits.numpy(), expected, atol=TOLERANCE, rtol=0)


@each_executor
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_healed_to_the_end_it_is_the_new_text(
    executor: Executor, case: str, known: tuple[Door, Golden], meta: dict[str, Any]
) -> None:
    door, golden = known
    text = edited(door, meta, case, executor)
    logits = text.heal([*text.reading.stale, len(text.ids) - 1])
    expected = golden[f"{case}_full_logits_refeed_f64"]
    np.testing.assert_allclose(logits.numpy(), expected, atol=TOLERANCE, rtol=0)
    for layer, (keys, values) in enumerate(held(text.reading)):
        np.testing.assert_allclose(
            keys.numpy(), golden[f"{case}_full_k_l{layer}"], atol=TOLERANCE, rtol=0
        )
        np.testing.assert_allclose(
            values.numpy(), golden[f"{case}_full_v_l{layer}"], atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("case", CASES)
def test_the_vectors_tell_the_readings_apart(
    case: str, known: tuple[Door, Golden], meta: dict[str, Any]
) -> None:
    """What they would miss if they could not fail: kept keys unmoved, or all of it new."""
    _, golden = known
    new = golden[f"{case}_ids"].tolist()
    assert apply(meta["old_ids"], [Hunk(a, b, tuple(c)) for a, b, c in meta["cases"][case]]) == new
    pie = golden[f"{case}_pie_logits_refeed_f64"]
    for other in ("cfe", "full"):
        assert np.abs(pie - golden[f"{case}_{other}_logits_refeed_f64"]).max() > 10 * TOLERANCE
