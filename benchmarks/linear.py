"""Decoding with one client beside the memory: what a step reads a second, what a sum does.

Both take turns in one process, a few steps and one sum of 1 GiB, so that a slow minute hits both.
Beside them the same model without kernels of the machine, on its own cache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from benchmarks._harness import Row, arguments, medians, show, timed
from benchmarks._llama import random_llama
from benchmarks._model import bytes_a_step
from kvedit.hf import fit_kernels, open_door
from kvedit.plain import PlainReading

PROMPT, STEPS, SUMMED = 256, 4, 2**28
Step = Callable[[], float]


def main() -> None:
    """Print the figures."""
    options = arguments(__doc__ or "", _more)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    rows = []
    for name in options.dtype.split(","):
        rows += _measured(options.model, getattr(torch, name), 5 if options.quick else 15)
    what = "random Llama" if options.model is None else options.model.name
    show(f"decode of one client, {what}, {options.threads} threads", rows, options.json)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="folder  [default: a random Llama of 94M]")
    parser.add_argument("--dtype", default="float32,bfloat16", help="with commas")
    parser.add_argument("--threads", type=int, default=2)


def _measured(path: Path | None, dtype: torch.dtype, runs: int) -> list[Row]:
    """Return the figures of one dtype."""
    name, numbers = str(dtype).removeprefix("torch."), torch.ones(SUMMED)
    model, size = _model(path, dtype)
    stock = _stock(model)
    before = medians(runs, {"stock": stock, "sum": lambda: timed(numbers.sum)})
    fit_kernels(model)
    step = _fitted(model)
    found = medians(runs, {"step": step, "sum": lambda: timed(numbers.sum)})
    reads, sums = size / found["step"] / 1e9, numbers.nbytes / found["sum"] / 1e9
    return [
        Row(name, "a step reads, beside a sum", reads, "GB/s", sums),
        Row(
            name,
            "a step, beside the stock model's",
            found["step"] * 1e3,
            "ms",
            before["stock"] * 1e3,
        ),
    ]


def _model(path: Path | None, dtype: torch.dtype) -> tuple[PreTrainedModel, int]:
    """Return a model, and the bytes of weights that a step reads."""
    if path is not None:
        load = AutoModelForCausalLM.from_pretrained
        model: PreTrainedModel = load(path, dtype=dtype, attn_implementation="sdpa")
        size = bytes_a_step(path, str(dtype).removeprefix("torch."))
        assert size is not None, "a step must read all weights"
    else:
        model = random_llama("94M")
        model.to(dtype)  # type: ignore[arg-type]  # transformers' own wrapper hides the signature
        linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
        size = sum(each.weight.nbytes for each in linear)
    model.requires_grad_(False)
    return model, size


def _stock(model: PreTrainedModel) -> Step:
    """Return a way to take steps as transformers does, which returns a step's median seconds."""
    cache = DynamicCache(config=model.config)

    def run(ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits
        return logits

    return _steps(run)


def _fitted(model: PreTrainedModel) -> Step:
    """Return a way to take steps as the server does."""
    door, reading = open_door(model), PlainReading()
    assert door.refusal is None, door.refusal
    return _steps(lambda ids: door.forward(ids, reading))


def _steps(run: Callable[[torch.Tensor], torch.Tensor]) -> Step:
    last = [run(torch.arange(100, 100 + PROMPT)[None])[:, -1].argmax(-1)]

    def step() -> None:
        last[0] = run(last[0][None])[:, -1].argmax(-1)

    return lambda: statistics.median(timed(step) for _ in range(STEPS))


if __name__ == "__main__":
    main()
