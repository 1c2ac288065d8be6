"""PINE against plain attention on random Llamas: prefill, decode, and the floor by counting.

All ways run in one process, alternately, in one dtype, 2 threads, last-token logits: a lean
hand-written plain loop, the stock path (transformers with SDPA and its own cache, as a request
without stages runs it), and PINE through the door.
"""

import argparse
import sys

sys.path.pop(0)  # this folder: there the script's own name would hide the package `pine`

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks._harness import Row, arguments, show, timed
from benchmarks._lean import Lean
from benchmarks._llama import SHAPES, random_llama
from kvedit.hf import Door, open_door
from kvedit.segments import Segments
from pine.reading import PineReading

CASES = {"2 x 512": (2, 512), "20 x 128": (20, 128), "100 x 64": (100, 64), "4 x 2048": (4, 2048)}
OUTSIDE = 32  # tokens in the prefix, and in the suffix
DECODE = 16  # tokens per measurement
LONG = 4096  # tokens of documents: beyond, a run takes half a minute or more
WAYS = ("lean", "stock", "pine")
DTYPES = {
    str(each).removeprefix("torch."): each
    for each in (torch.float32, torch.bfloat16, torch.float16)
}


def prompt(case: str) -> Segments:
    """Return random documents of equal length between a prefix and a suffix."""
    documents, length = CASES[case]
    generator = torch.Generator().manual_seed(documents)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(32000, (count,), generator=generator).tolist())

    return Segments(ids(OUTSIDE), tuple(ids(length) for _ in range(documents)), ids(OUTSIDE))


@dataclass(frozen=True)
class Floor:
    """What cannot be saved, by counting: operations in prefill, bytes read in decode.

    Plain attention is causal: half of the square. PINE's documents see each other whole, and with
    more than two of them their importance needs one more product of queries and keys. In decode
    PINE reads the documents' keys twice, rotated and not.
    """

    config: LlamaConfig
    documents: int
    length: int

    @property
    def kv_heads(self) -> int:
        """Return how many key heads a layer has."""
        return self.config.num_key_value_heads or self.config.num_attention_heads

    @property
    def dim(self) -> int:
        """Return the dimensions of a head."""
        return int(self.config.hidden_size // self.config.num_attention_heads)

    @property
    def weights(self) -> int:
        """Return the weights of the layers: one multiplication and addition per token each."""
        hidden, kv = self.config.hidden_size, self.kv_heads * self.dim
        per_layer = hidden * (2 * hidden + 2 * kv + 3 * self.config.intermediate_size)
        return int(per_layer * self.config.num_hidden_layers)

    def prefill(self) -> float:
        """Return PINE's operations over plain attention's."""
        inside, width = self.documents * self.length, self.config.hidden_size
        tokens, layers = inside + 2 * OUTSIDE, self.config.num_hidden_layers
        linear = 2 * self.weights * tokens
        plain = 2 * 2 * width * tokens**2 / 2 * layers
        # own document causal, all others whole; prefix and suffix rows as in plain
        pairs = inside**2 - self.documents * self.length**2 / 2 + tokens**2 / 2 - inside**2 / 2
        products = 2 * pairs + (inside**2 if self.documents > 2 else 0)
        return (linear + 2 * width * products * layers) / (linear + plain)

    def decode(self) -> float:
        """Return the bytes that PINE reads per token over plain attention's."""
        inside = self.documents * self.length
        head = self.config.vocab_size * self.config.hidden_size
        kv = self.kv_heads * self.dim * self.config.num_hidden_layers
        plain = self.weights + head + 2 * kv * (inside + 2 * OUTSIDE)
        return (plain + kv * inside) / plain


class Sides:
    """All ways through one prompt, or some of them; each measurement returns seconds."""

    def __init__(self, door: Door, case: str, ways: tuple[str, ...] = WAYS) -> None:
        assert isinstance(door.model, LlamaForCausalLM)
        self._door, self._segments = door, prompt(case).canonical()
        self._ids = torch.tensor([self._segments.ids])
        self._token = torch.tensor([[7]])
        room = self._ids.shape[1] + 1024
        self._lean = Lean(door.model, room) if "lean" in ways else None  # it copies the weights
        self._cache = DynamicCache(config=door.model.config)
        self._reading = PineReading(self._segments)

    def prefill(self, way: str) -> float:
        """Read the prompt."""
        if self._lean is not None:
            self._lean.length = 0
        self._cache = DynamicCache(config=self._door.model.config)
        self._reading = PineReading(self._segments)
        return timed(lambda: self._step(way, self._ids))

    def decode(self, way: str) -> float:
        """Read some more tokens, one by one."""
        return timed(lambda: [self._step(way, self._token) for _ in range(DECODE)]) / DECODE

    def both(self, way: str) -> tuple[float, float]:
        """Read the prompt, then decode."""
        return self.prefill(way), self.decode(way)

    def _step(self, way: str, ids: torch.Tensor) -> object:
        steps: dict[str, Callable[[], object]] = {
            "lean": lambda: self._lean and self._lean.forward(ids),
            "stock": lambda: self._door.model(
                ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            ),
            "pine": lambda: self._door.forward(ids, self._reading),
        }
        return steps[way]()


def measure(door: Door, shape: str, case: str, runs: int) -> list[Row]:
    """Return one case's figures: PINE against the lean loop and against the stock path."""
    sides = Sides(door, case)
    decodes: dict[str, list[float]] = {name: [] for name in WAYS}
    prefills: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(runs + 1):
        for name in WAYS:
            prefill, decode = sides.both(name)
            if turn:  # the first turn warms up
                prefills[name].append(prefill)
                decodes[name].append(decode)
    assert isinstance(door.model, LlamaForCausalLM)
    floor = Floor(door.model.config, *CASES[case])
    rows = []
    for phase, found, least in (
        ("prefill", prefills, floor.prefill()),
        ("decode", decodes, floor.decode()),
    ):
        middle = {name: sorted(values)[len(values) // 2] * 1e3 for name, values in found.items()}
        for other in ("lean", "stock"):
            metric = f"{phase}, PINE / {other}"
            rows.append(Row(f"{shape} {case}", metric, middle["pine"], "ms", middle[other]))
        rows.append(Row(f"{shape} {case}", f"{phase}, floor / lean", least, "x", 1.0))
    return rows


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(2)
    options = arguments(__doc__.splitlines()[0] if __doc__ else "", _more)
    shapes = options.shape or (("94M",) if options.quick else ("94M", "349M"))
    cases = tuple(CASES)[:2] if options.quick else tuple(CASES)
    rows = []
    for shape in shapes:
        door = open_door(random_llama(shape, DTYPES[options.dtype]))
        for case in cases:
            documents, length = CASES[case]
            long = documents * length > LONG
            rows += measure(door, shape, case, 2 if long else 3 if options.quick else 5)
        del door
    show(f"PINE, random Llamas, {options.dtype}, 2 threads", rows, options.json)


def _more(parser: argparse.ArgumentParser) -> None:
    """Ask for a dtype, and for shapes."""
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="one of the sizes; again")


if __name__ == "__main__":
    main()
