"""The model families that `families.py` measures: tiny configs, and what is expected of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from models import SHAPE, sharpen


@dataclass(frozen=True, eq=False)
class Family:
    """One family, or one way of its configuration.

    model    name of its class in transformers, without "ForCausalLM"
    changes  what its tiny config has beside `models.SHAPE`
    why      for people: why it is refused, or PINE alone; "" = all may read it
    reason   what the gate's refusal must contain, or PINE's, likewise
    """

    name: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    reason: str = ""

    @property
    def narrow(self) -> bool:
        """Return whether some layers are windows, which other readings can use."""
        return self.why == WINDOW

    def build(self) -> transformers.PreTrainedModel:
        """Return a tiny seeded model in float32."""
        config = getattr(transformers, CONFIGS.get(self.model, f"{self.model}Config"))
        model = getattr(transformers, MODELS.get(self.model, f"{self.model}ForCausalLM"))
        with torch.random.fork_rng():
            torch.manual_seed(0)  # for what `sharpen` leaves as it is
            made: transformers.PreTrainedModel = model(
                config(**{**SHAPE, **TOKENS, **self.changes})
            )
            return sharpen(made, 0)


CONFIGS = {"Gemma3": "Gemma3TextConfig", "Llama4": "Llama4TextConfig"}
MODELS = {"GPT2": "GPT2LMHeadModel"}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEAD = {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
WIDE, NARROW = {**SLIDING, "sliding_window": 512}, {**SLIDING, "sliding_window": 64}
OLD = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}  # names of GPT-2's time
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def rope(kind: str, **numbers: Any) -> dict[str, Any]:
    """Return a config's rotary parameters."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **numbers}}


HALF = rope("default", partial_rotary_factor=0.5)
LLAMA3_ROPE = rope("llama3", original_max_position_embeddings=64, **LLAMA3)
YARN_ROPE = rope("yarn", factor=4.0, original_max_position_embeddings=128)
LONG_ROPE = rope("longrope", factor=4.0, original_max_position_embeddings=128, **LONG)
TEMPERED = rope("yarn", factor=8.0, original_max_position_embeddings=64, llama_4_scaling_beta=0.1)
PHI_LONG = rope("longrope", **LONG) | {"original_max_position_embeddings": 128}

CHANGES = "frequencies change with the text's length"
WINDOW = "some layers see only a window"
OWN = "attention cannot be exchanged in transformers"
FEW = "layers [0] see only the last 64 tokens"
NO_DOOR, NO_ROTARY = "no interchangeable attention", "no rotary positions"
SINKS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 512}
SCOUT = {"num_local_experts": 2, "num_experts_per_tok": 1, "attention_chunk_size": 64}
MLA = {**LATENT, **ROUTED, "v_head_dim": 16, "num_key_value_heads": 4}

FAMILIES = (
    Family("Llama 2, 3", "Llama"),
    Family("Llama 3.1 (llama3 scaling)", "Llama", LLAMA3_ROPE),
    Family("Llama, linear scaling", "Llama", rope("linear", factor=4.0)),
    Family("Llama, yarn scaling", "Llama", YARN_ROPE),
    Family("Llama, dynamic scaling", "Llama", rope("dynamic", factor=4.0), CHANGES, "'dynamic'"),
    Family("Llama, longrope scaling", "Llama", LONG_ROPE, CHANGES, "'longrope'"),
    Family("Llama 4", "Llama4", {**HEAD, **SCOUT}, "some layers see only a chunk", "see only a"),
    Family("Mistral", "Mistral", {"sliding_window": None}),
    Family("Mistral, sliding window", "Mistral", {"sliding_window": 64}, WINDOW, "last 64 tokens"),
    Family("Mixtral", "Mixtral", {"num_local_experts": 4}),
    Family(
        "Ministral 3 (scaled queries)",
        "Ministral3",
        {**HEAD, **TEMPERED},
        "queries are scaled by their position",
        "no rotary layout reproduces",
    ),
    Family("Qwen2, Qwen2.5", "Qwen2"),
    Family("Qwen2-MoE", "Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 32}),
    Family("Qwen3", "Qwen3", HEAD),
    Family("Qwen3-MoE", "Qwen3Moe", {**HEAD, **EXPERTS}),
    Family("Phi-1, Phi-2 (partial rotary)", "Phi", HALF),
    Family("Phi-3", "Phi3"),
    Family("Phi-4-mini (partial rotary)", "Phi3", HALF),
    Family("Phi-3, Phi-4-mini, longrope scaling", "Phi3", PHI_LONG, CHANGES, "'longrope'"),
    Family("Gemma", "Gemma", HEAD),
    Family(
        "Gemma 2 (soft cap), context within the window",
        "Gemma2",
        {**HEAD, **WIDE, "attn_logit_softcapping": 2.0},
    ),
    Family("Gemma 2, longer context", "Gemma2", {**HEAD, **NARROW}, WINDOW, FEW),
    Family("Gemma 3, context within the window", "Gemma3", {**HEAD, **WIDE}),
    Family("Gemma 3, longer context", "Gemma3", {**HEAD, **NARROW}, WINDOW, FEW),
    Family("GPT-NeoX, Pythia (partial rotary)", "GPTNeoX", {"rotary_pct": 0.5}),
    Family("Cohere (Command R)", "Cohere"),
    Family("Cohere 2, context within the window", "Cohere2", WIDE),
    Family("Cohere 2, longer context", "Cohere2", NARROW, WINDOW, FEW),
    Family("GLM", "Glm", HEAD),
    Family("GLM-4", "Glm4", HEAD),
    Family("GLM-4.5", "Glm4Moe", {**HEAD, **ROUTED, "moe_intermediate_size": 32}),
    Family("Granite", "Granite", {"attention_multiplier": 0.3}),
    Family("OLMo", "Olmo"),
    Family("OLMo 2", "Olmo2"),
    Family("OLMoE", "Olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    Family("SmolLM3 (layers without positions)", "SmolLM3", {"no_rope_layers": [1, 0]}),
    Family("Starcoder2", "Starcoder2", {"sliding_window": None}),
    Family("Seed-OSS", "SeedOss", HEAD),
    Family("ERNIE 4.5", "Ernie4_5", HEAD),
    Family("Helium", "Helium", HEAD),
    Family(
        "GPT-OSS",
        "GptOss",
        {**HEAD, **SINKS},
        "the softmax has sinks",
        "attention through the door is off by",
    ),
    Family("StableLM", "StableLm", {}, OWN, "do not use the attention interface"),
    Family("Falcon", "Falcon", {"ffn_hidden_size": 96}, OWN, NO_DOOR),
    Family("GPT-J", "GPTJ", {**OLD, "rotary_dim": 8}, OWN, NO_DOOR),
    Family("Bloom", "Bloom", {"n_head": 4}, "distances are biases (ALiBi)", NO_DOOR),
    Family("DeepSeek-V3", "DeepseekV3", MLA, "keys are latent (MLA)", "values of different widths"),
    Family("GPT-2", "GPT2", OLD, "positions are learned", NO_ROTARY),
    Family("OPT", "OPT", {"ffn_dim": 96}, "positions are learned", NO_ROTARY),
    Family("Mamba", "Mamba", {}, "a state-space model: no attention", NO_ROTARY),
    Family("Jamba", "Jamba", {"num_experts": 2}, "some layers are a state space", NO_ROTARY),
    Family(
        "LFM2",
        "Lfm2",
        {"layer_types": ["conv", "full_attention"]},
        "some layers are convolutions",
        "layers [0] do not use the attention interface",
    ),
)
