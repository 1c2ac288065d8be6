"""PINE against stock SDPA on a random 94M-parameter Llama: prefill and decode, side by side.

Both sides run in one process through transformers' own forward, float32, 2 threads, last-token
logits; the baseline is the stock path with the stock cache, as a request without stages runs it.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there the script's own name would hide the package `pine`

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks._harness import Row, arguments, medians, show, timed
from kvedit.hf import Door, open_door
from pine.reading import Pine
from pine.segments import Segments

CASES = {"2 x 512": (2, 512), "20 x 128": (20, 128)}
OUTSIDE = 32  # tokens in the prefix, and in the suffix
DECODE = 16  # tokens per measurement


def model() -> LlamaForCausalLM:
    """Return the 94M-parameter shape: 12 layers, hidden 512, 8 heads, 4 KV heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def prompt(documents: int, length: int) -> Segments:
    """Return random documents of equal length between a prefix and a suffix."""
    generator = torch.Generator().manual_seed(documents)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(32000, (count,), generator=generator).tolist())

    return Segments(ids(OUTSIDE), tuple(ids(length) for _ in range(documents)), ids(OUTSIDE))


class Sides:
    """Both ways through one prompt; each measurement returns seconds."""

    def __init__(self, door: Door, segments: Segments) -> None:
        self._door, self._segments = door, segments.canonical()
        self._ids = torch.tensor([self._segments.ids])
        self._token = torch.tensor([[7]])
        self.cache, self.reading = DynamicCache(config=door.model.config), Pine(self._segments)

    def stock_prefill(self) -> float:
        self.cache = DynamicCache(config=self._door.model.config)
        return timed(lambda: self._stock(self._ids))

    def stock_decode(self) -> float:
        return timed(lambda: [self._stock(self._token) for _ in range(DECODE)]) / DECODE

    def pine_prefill(self) -> float:
        self.reading = Pine(self._segments)
        return timed(lambda: self._door.forward(self._ids, self.reading))

    def pine_decode(self) -> float:
        return timed(lambda: [self._pine_step() for _ in range(DECODE)]) / DECODE

    def _pine_step(self) -> None:
        self._door.forward(self._token, self.reading)

    def _stock(self, ids: torch.Tensor) -> None:
        self._door.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    torch.set_num_threads(2)
    door = open_door(model())
    rows = []
    for case, (documents, length) in CASES.items():
        sides = Sides(door, prompt(documents, length))
        ways = {
            "stock prefill": sides.stock_prefill,
            "stock decode": sides.stock_decode,
            "pine prefill": sides.pine_prefill,
            "pine decode": sides.pine_decode,
        }
        medians(1, ways)  # warm up
        found = medians(2 if options.quick else 7, ways)
        for phase in ("prefill", "decode"):
            stock, ours = found[f"stock {phase}"], found[f"pine {phase}"]
            rows.append(
                Row(case, f"{phase}, PINE against stock SDPA", ours * 1e3, "ms", stock * 1e3)
            )
    show("PINE, 94M random Llama, float32, 2 threads", rows, options.json)


if __name__ == "__main__":
    main()
