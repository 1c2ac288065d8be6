"""Which model families readings may use, measured on tiny random models of each one.

Per family: the gate's verdict, the plain reading against stock attention, PINE against the float64
oracle, and whether permuted documents give the same bits. `--markdown` prints the README's table.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # not this folder, whose names would hide packages: the tests' helpers
    sys.path[0] = str(Path(__file__).parents[1] / "tests")

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
import transformers
from models import SHAPE, sharpen
from oracles import OracleReading
from rich.console import Console
from rich.table import Table
from torch import Tensor

from kvedit.hf import Door, open_door
from kvedit.plain import Plain
from kvedit.reading import Reading
from kvedit.rotary import RotaryGeometry
from pine.reading import Pine
from pine.segments import Ids, Segments

PREFIX, SUFFIX = (3, 14, 15, 92), (65, 35, 89)
DOCUMENTS: tuple[Ids, ...] = ((79, 32, 38, 46, 26), (43, 38), (32, 79, 50, 28, 84, 19, 71, 69))
STEPS: Ids = (39, 93)  # tokens read one by one after the prompt


@dataclass(frozen=True)
class Family:
    """One family, or one way of its configuration.

    model    name of its class in transformers, without "ForCausalLM"
    changes  what its tiny config has beside `models.SHAPE`
    why      for people: why it is refused; "" = it is supported
    reason   what the gate's refusal must contain, likewise
    """

    name: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    reason: str = ""

    def build(self) -> transformers.PreTrainedModel:
        """Return a tiny seeded model in float32."""
        config = getattr(transformers, CONFIGS.get(self.model, f"{self.model}Config"))
        model = getattr(transformers, MODELS.get(self.model, f"{self.model}ForCausalLM"))
        return sharpen(model(config(**{**SHAPE, **TOKENS, **self.changes})), 0)


CONFIGS = {"Gemma3": "Gemma3TextConfig"}
MODELS = {"GPT2": "GPT2LMHeadModel"}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEAD = {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}
DEEPSEEK = {**LATENT, "v_head_dim": 16, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
OLD = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}  # names of GPT-2's time
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def rope(kind: str, **numbers: Any) -> dict[str, Any]:
    """Return a config's rotary parameters."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **numbers}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
HALF = rope("default", partial_rotary_factor=0.5)
CHANGES = "the frequencies change with the text's length"
WINDOW = "layers that see only a window"
OWN = "its attention cannot be exchanged in transformers"

FAMILIES = (
    Family("Llama 2, 3", "Llama"),
    Family(
        "Llama 3.1 (llama3 scaling)",
        "Llama",
        rope("llama3", original_max_position_embeddings=64, **LLAMA3),
    ),
    Family("Llama, linear scaling", "Llama", rope("linear", factor=4.0)),
    Family(
        "Llama, yarn scaling",
        "Llama",
        rope("yarn", factor=4.0, original_max_position_embeddings=128),
    ),
    Family("Llama, dynamic scaling", "Llama", rope("dynamic", factor=4.0), CHANGES, "'dynamic'"),
    Family(
        "Llama, longrope scaling",
        "Llama",
        rope("longrope", factor=4.0, original_max_position_embeddings=128, **LONG),
        CHANGES,
        "'longrope'",
    ),
    Family("Mistral", "Mistral", {"sliding_window": None}),
    Family("Mistral, sliding window", "Mistral", {"sliding_window": 64}, WINDOW, "last 64 tokens"),
    Family("Mixtral", "Mixtral", {"num_local_experts": 4}),
    Family("Qwen2, Qwen2.5", "Qwen2"),
    Family("Qwen2-MoE", "Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 32}),
    Family("Qwen3", "Qwen3", HEAD),
    Family("Qwen3-MoE", "Qwen3Moe", {**HEAD, **EXPERTS}),
    Family("Phi-1, Phi-2 (partial rotary)", "Phi", HALF),
    Family("Phi-3", "Phi3"),
    Family("Phi-4 (partial rotary)", "Phi3", HALF),
    Family(
        "Phi-3, longrope scaling",
        "Phi3",
        rope("longrope", **LONG) | {"original_max_position_embeddings": 128},
        CHANGES,
        "'longrope'",
    ),
    Family("Gemma", "Gemma", HEAD),
    Family(
        "Gemma 2 (soft cap), window not below the context",
        "Gemma2",
        {**HEAD, **SLIDING, "sliding_window": 512, "attn_logit_softcapping": 2.0},
    ),
    Family(
        "Gemma 2, longer context",
        "Gemma2",
        {**HEAD, **SLIDING, "sliding_window": 64},
        WINDOW,
        "layers [0] see only the last 64 tokens",
    ),
    Family(
        "Gemma 3, window not below the context",
        "Gemma3",
        {**HEAD, **SLIDING, "sliding_window": 512},
    ),
    Family(
        "Gemma 3, longer context",
        "Gemma3",
        {**HEAD, **SLIDING, "sliding_window": 64},
        WINDOW,
        "layers [0] see only the last 64 tokens",
    ),
    Family("GPT-NeoX, Pythia", "GPTNeoX", {"rotary_pct": 0.5}),
    Family("Cohere (Command R)", "Cohere"),
    Family(
        "Cohere 2, window not below the context", "Cohere2", {**SLIDING, "sliding_window": 512}
    ),
    Family(
        "Cohere 2, longer context",
        "Cohere2",
        {**SLIDING, "sliding_window": 64},
        WINDOW,
        "layers [0] see only the last 64 tokens",
    ),
    Family("GLM", "Glm", HEAD),
    Family("GLM-4", "Glm4", HEAD),
    Family("Granite", "Granite", {"attention_multiplier": 0.3}),
    Family("OLMo", "Olmo"),
    Family("OLMo 2", "Olmo2"),
    Family("SmolLM3 (layers without positions)", "SmolLM3", {"no_rope_layers": [1, 0]}),
    Family("Starcoder2", "Starcoder2", {"sliding_window": None}),
    Family(
        "GPT-OSS",
        "GptOss",
        {**HEAD, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 512},
        "the softmax has sinks",
        "attention through the door is off by",
    ),
    Family("StableLM", "StableLm", {}, OWN, "do not use the attention interface"),
    Family("Falcon", "Falcon", {"ffn_hidden_size": 96}, OWN, "no interchangeable attention"),
    Family("GPT-J", "GPTJ", {**OLD, "rotary_dim": 8}, OWN, "no interchangeable attention"),
    Family("Bloom", "Bloom", {"n_head": 4}, "distances are biases (ALiBi)", "interchangeable"),
    Family(
        "DeepSeek-V3",
        "DeepseekV3",
        {**DEEPSEEK, "num_key_value_heads": 4, "num_experts_per_tok": 2},
        "keys and values are latent (MLA)",
        "keys and values of different widths",
    ),
    Family("GPT-2", "GPT2", OLD, "positions are learned", "no rotary positions"),
    Family("OPT", "OPT", {"ffn_dim": 96}, "positions are learned", "no rotary positions"),
    Family("Mamba", "Mamba", {}, "a state-space model: no attention", "no rotary positions"),
    Family("Jamba", "Jamba", {"num_experts": 2}, "a state-space hybrid", "no rotary positions"),
)


@dataclass(frozen=True)
class Verdict:
    """What was measured of one family; errors relative to the greatest expected logit.

    refusal   the gate's, or None; then the other fields are measured
    geometry  per layer, for people
    plain     the plain reading against stock, prefill and decode
    pine      PINE against the float64 oracle, all rows of the prompt
    moved     PINE against the plain reading: how much the documents' order matters
    bitwise   whether all orders of the documents gave the same bits, prefill and decode
    """

    refusal: str | None
    geometry: str = ""
    plain: float = 0.0
    pine: float = 0.0
    moved: float = 0.0
    bitwise: bool = False


@torch.inference_mode()
def measure(family: Family) -> Verdict:
    """Open the door of the family's tiny model and hold its readings against what they must be."""
    model = family.build()
    segments = Segments(PREFIX, DOCUMENTS, SUFFIX).canonical()
    ids = torch.tensor([segments.ids + STEPS])
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # transformers' SDPA forgets the cap
    stock = model(ids, use_cache=False).logits
    door = open_door(model)
    if door.refusal is not None:
        return Verdict(door.refusal)
    prompt = len(segments.ids)
    plain, pine = logits(door, Plain(), ids, prompt), logits(door, Pine(segments), ids, prompt)
    exact = Door(double(model), door.geometries, None)
    oracle = exact.forward(ids[:, :prompt], OracleReading(segments), keep=0)
    return Verdict(
        None,
        ", ".join(dict.fromkeys(map(described, door.geometries))),
        off(plain, stock),
        off(pine[:, :prompt], oracle),
        off(pine, plain),
        all(torch.equal(each, pine[:, prompt - 1 :]) for each in permuted(door)),
    )


def double(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Return a float64 copy; experts one after another, since grouped products have no float64."""
    copied = copy.deepcopy(model).double()
    if copied._can_set_experts_implementation():
        copied.set_experts_implementation("eager")
    return copied


def logits(door: Door, reading: Reading, ids: Tensor, prompt: int) -> Tensor:
    """Return the logits of every token: the prompt at once, the rest one by one."""
    pieces = [ids[:, :prompt], *ids[:, prompt:].split(1, 1)]
    return torch.cat([door.forward(piece, reading, keep=0) for piece in pieces], 1)


def permuted(door: Door) -> Iterator[Tensor]:
    """Yield PINE's last-token and decode logits for each order of the documents."""
    for documents in permutations(DOCUMENTS):
        segments = Segments(PREFIX, documents, SUFFIX).canonical()
        ids, prompt = torch.tensor([segments.ids + STEPS]), len(segments.ids)
        yield logits(door, Pine(segments), ids, prompt)[:, prompt - 1 :]


def off(found: Tensor, expected: Tensor) -> float:
    """Return the greatest difference relative to the greatest expected entry."""
    exact = expected.double()
    return float((found.double() - exact).abs().max() / exact.abs().max())


def described(geometry: RotaryGeometry | None) -> str:
    """Return one layer's geometry for people."""
    return "no positions" if geometry is None else f"{geometry.width} {geometry.layout}"


def markdown(verdicts: dict[Family, bool]) -> str:
    """Return the README's table of families and whether the gate accepted them."""
    lines = ["| family | supported | why not |", "|---|---|---|"]
    for family, supported in verdicts.items():
        lines.append(f"| {family.name} | {'yes' if supported else 'no'} | {family.why} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every family, and print the table or the README's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print the README's table alone")
    verdicts = {family.name: measure(family) for family in FAMILIES}
    if parser.parse_args().markdown:
        print(markdown({each: verdicts[each.name].refusal is None for each in FAMILIES}))
        return
    table = Table(title="Families, tiny random models, float32; errors of the greatest logit")
    for column in ("family", "verdict", "geometry", "plain", "PINE", "permutations"):
        table.add_column(column)
    for name, seen in verdicts.items():
        if seen.refusal is not None:
            table.add_row(name, seen.refusal)
            continue
        bits = "bitwise equal" if seen.bitwise else "differ"
        errors = f"{seen.plain:.1e}", f"{seen.pine:.1e}"
        table.add_row(name, "yes", seen.geometry, *errors, bits)
    Console().print(table)


if __name__ == "__main__":
    main()
