"""The engine against transformers' own `generate`: a call with no stage, 256 new tokens.

The engine's side is all of it: event loop, worker thread, detokenisation, one chunk per token. Both
sides run on equal models in one process, in turns, and must give the same tokens.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there pine.py would hide the package `pine`

import asyncio
import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks._harness import Row, arguments, medians, show, timed
from pocket import WEIGHTS
from pocket.tokenizer import build
from server.engines.hf import HfEngine
from server.job import Sampling, Work
from server.prompt import TokenPrompt

NEW = 256  # tokens
PROMPT = 64  # tokens
SEED = 11
GREEDY = Sampling(max_tokens=NEW, temperature=0, ignore_eos=True)
SAMPLED = replace(GREEDY, temperature=0.8, top_k=40, top_p=0.9, seed=SEED)
CASES: dict[str, tuple[Sampling, dict[str, Any]]] = {  # the same, as each side is told
    "greedy": (GREEDY, {"do_sample": False}),
    "sampled": (SAMPLED, {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.9}),
}


def random_engine() -> HfEngine:
    """Return an engine with a random Llama of the embedded model's kind."""
    tokenizer = build(0, size=50)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    model.eval()
    return HfEngine(model, tokenizer, name="random Llama")


@dataclass
class Sides:
    """Both ways to the same tokens; each run returns seconds and leaves its tokens in `tokens`."""

    engine: HfEngine
    model: PreTrainedModel
    runner: asyncio.Runner
    case: str
    tokens: list[int]

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.prompt = torch.randint(16, 200, (1, PROMPT), generator=generator)

    def stock(self) -> float:
        """Run `generate`."""
        torch.manual_seed(SEED)
        return timed(self._generate)

    def ours(self) -> float:
        """Run the engine, streamed to the end."""
        expected = self.tokens
        seconds = timed(lambda: self.runner.run(self._stream()))
        if self.tokens != expected:
            raise SystemExit(f"{self.case}: the engine's tokens must equal generate's, got others")
        return seconds

    def _generate(self) -> None:
        generate: Any = self.model.generate
        output = generate(
            self.prompt,
            attention_mask=torch.ones_like(self.prompt),
            max_new_tokens=NEW,
            **CASES[self.case][1],
        )
        self.tokens = output[0, PROMPT:].tolist()

    async def _stream(self) -> None:
        prompt = TokenPrompt(tuple(self.prompt[0].tolist()))
        chunks = await self.engine.generate(Work((prompt,), CASES[self.case][0]))
        self.tokens = [token.id async for chunk in chunks for token in chunk.tokens]


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    torch.set_num_threads(2)
    trained = (WEIGHTS / "model.safetensors").exists()
    engine = HfEngine.load(WEIGHTS, name="pocket") if trained else random_engine()
    model = copy.deepcopy(engine.model)  # untouched by us: transformers' own attention
    model.set_attn_implementation("sdpa")
    model.generation_config.eos_token_id = None  # both sides write all 256 tokens
    rows = []
    with asyncio.Runner() as runner:
        for case in CASES:
            sides = Sides(engine, model, runner, case, [])
            ways = {"stock": sides.stock, "ours": sides.ours}
            medians(1, ways)  # warm up
            found = medians(5 if options.quick else 15, ways)
            stock, ours = found["stock"] * 1e3, found["ours"] * 1e3
            name = f"{engine.info.id}, {case}"
            rows.append(Row(name, f"{NEW} new tokens, engine against generate", ours, "ms", stock))
        runner.run(engine.close())
    show("Plain calls, float32, 2 threads", rows, options.json)


if __name__ == "__main__":
    main()
