"""PINE by the gpu executor against FlashAttention: an 8B shape, 20 x 512 tokens, bfloat16.

Three sights of the same prompt: one attention layer alone (turns, caching and reading, no weights),
the whole random model, as many of its 32 layers as fit, prefill and decode, and peak memory. Both
sides run in one process, alternately; the baseline is transformers with SDPA held to its flash
backend, plain causal attention over the same tokens. Without CUDA and Triton it says so and ends.
"""

import sys

sys.path.pop(0)  # this folder: there the script's own name would hide a package

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks._harness import Row, arguments, medians, show, timed
from kvedit.executors import gpu
from kvedit.hf import Door, open_door
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.segments import Segments
from pine.reading import PineReading

DOCUMENTS, LENGTH, OUTSIDE = 20, 512, 32  # tokens of a document, of the prefix and of the suffix
DECODE = 16  # tokens per measurement
HEADS, KV_HEADS, DIM, LAYERS = 32, 8, 128, 32
HIDDEN, INTERMEDIATE, VOCABULARY, THETA = 4096, 14336, 128256, 500000.0
PER_LAYER, RESERVE = 650e6, 9e9  # bytes: weights and both caches; embeddings and what passes
CASE = f"{DOCUMENTS} x {LENGTH}"
DTYPE = torch.bfloat16


def segments() -> Segments:
    """Return random documents of equal length between a prefix and a suffix."""
    generator = torch.Generator().manual_seed(DOCUMENTS)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (count,), generator=generator).tolist())

    documents = tuple(ids(LENGTH) for _ in range(DOCUMENTS))
    return Segments(ids(OUTSIDE), documents, ids(OUTSIDE)).canonical()


def flash() -> AbstractContextManager[None]:
    """Hold SDPA to FlashAttention: it raises rather than falls back."""
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION)


def finished(work: Callable[[], object]) -> float:
    """Return how long some work takes on the GPU until it is done, in seconds."""
    torch.cuda.synchronize()

    def whole() -> None:
        work()
        torch.cuda.synchronize()

    return timed(whole)


def one_layer(runs: int, device: torch.device) -> list[Row]:
    """Measure one layer's attention on random queries, keys and values."""
    cut = segments()
    tokens = len(cut.ids)
    generator = torch.Generator(device).manual_seed(0)
    query, key, value = (
        torch.randn(1, tokens, heads, DIM, generator=generator, device=device, dtype=DTYPE)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    inputs = tuple(x.transpose(1, 2) for x in (query, key, value))
    pair = torch.arange(0, DIM, 2, device=device).float() / DIM
    geometry = RotaryGeometry(THETA**-pair)
    layer = Layer(0, geometry, DIM**-0.5)
    positions = torch.arange(tokens, device=device)

    def plain() -> torch.Tensor:
        phases = geometry.phases(positions)
        turned, keys = (geometry.rotate(x, phases) for x in inputs[:2])
        with flash():
            return scaled_dot_product_attention(
                turned, keys, inputs[2], is_causal=True, enable_gqa=True
            )

    from kvedit.executors.gpu.executor import GpuExecutor  # needs triton

    executor = GpuExecutor()

    def pine() -> torch.Tensor:
        rows = PineReading(cut).rows(layer, *inputs[1:])
        return executor.read(layer, inputs[0], rows)

    ways = {"plain": lambda: finished(plain), "pine": lambda: finished(pine)}
    medians(2, ways)  # compiles, warms up
    found = medians(runs, ways)
    metric = "one layer's attention, PINE against FlashAttention"
    return [Row(CASE, metric, found["pine"] * 1e3, "ms", found["plain"] * 1e3)]


def model(device: torch.device) -> LlamaForCausalLM:
    """Return a random Llama of the 8B shape with as many layers as the device holds."""
    free = torch.cuda.mem_get_info(device)[0]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=max(1, min(LAYERS, int((free - RESERVE) / PER_LAYER))),
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with device:
        made: LlamaForCausalLM = LlamaForCausalLM._from_config(config, dtype=DTYPE)
    made.eval()
    return made


class Sides:
    """Both ways through one prompt; each measurement returns seconds."""

    def __init__(self, door: Door) -> None:
        device = door.model.device
        self._door, self._segments = door, segments()
        self._ids = torch.tensor([self._segments.ids], device=device)
        self._token = torch.tensor([[7]], device=device)
        self.forget()

    def plain_prefill(self) -> float:
        """Read the prompt as plain text."""
        self._cache = DynamicCache(config=self._door.model.config)
        return finished(lambda: self._plain(self._ids))

    def plain_decode(self) -> float:
        """Read tokens behind it, one by one: seconds per token."""
        return finished(lambda: _often(lambda: self._plain(self._token))) / DECODE

    def pine_prefill(self) -> float:
        """Read the prompt with its documents as a set."""
        self._reading = PineReading(self._segments)
        return finished(lambda: self._pine(self._ids))

    def pine_decode(self) -> float:
        """Read tokens behind it, one by one: seconds per token."""
        return finished(lambda: _often(lambda: self._pine(self._token))) / DECODE

    def forget(self) -> None:
        """Drop both caches."""
        self._cache, self._reading = (
            DynamicCache(config=self._door.model.config),
            PineReading(self._segments),
        )

    def _plain(self, ids: torch.Tensor) -> None:
        with flash():
            self._door.model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)

    def _pine(self, ids: torch.Tensor) -> None:
        self._door.forward(ids, self._reading)


def _often(step: Callable[[], None]) -> None:
    for _ in range(DECODE):
        step()


def whole_model(runs: int, device: torch.device) -> list[Row]:
    """Measure the model's prefill and decode, and what each adds to its memory."""
    door = open_door(model(device))
    if door.refusal is not None:
        raise SystemExit(f"the gate refused the random model: {door.refusal}")
    if door.executor.name != "gpu":
        raise SystemExit(f"the kernels are not used: {door.choice.refusals}")
    sides = Sides(door)
    ways = {
        "plain prefill": sides.plain_prefill,
        "plain decode": sides.plain_decode,
        "pine prefill": sides.pine_prefill,
        "pine decode": sides.pine_decode,
    }
    medians(2, ways)
    found = medians(runs, ways)
    layers = door.model.config.num_hidden_layers
    rows = [
        Row(
            CASE,
            f"{phase}, {layers} layers, PINE against FlashAttention",
            found[f"pine {phase}"] * 1e3,
            "ms",
            found[f"plain {phase}"] * 1e3,
        )
        for phase in ("prefill", "decode")
    ]
    peaks = {}
    for name, way in (("plain", sides.plain_prefill), ("pine", sides.pine_prefill)):
        sides.forget()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        way()
        peaks[name] = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    rows.append(Row(CASE, "peak memory of prefill", peaks["pine"], "MB", peaks["plain"]))
    return rows


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    if not torch.cuda.is_available():
        print("benchmarks/gpu: no CUDA device here, nothing measured")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    reason = gpu.refusal(DTYPE, DIM)
    if reason is not None:
        print(f"benchmarks/gpu: {reason}, nothing measured")
        return
    runs = 2 if options.quick else 9
    rows = one_layer(runs, device) + whole_model(runs, device)
    name = torch.cuda.get_device_name(device)
    show(f"PINE, random Llama of the 8B shape, bfloat16, {name}", rows, options.json)


if __name__ == "__main__":
    main()
