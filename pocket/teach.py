"""Second phase of the training: teach the reader to judge (`pocket.train` calls it).

What reads (embeddings and the first two layers) stays as it is. The layers above start inclined to
judge (`pocket.incline`), then see contests about facts: easy ones first, without a bias, then hard
ones, and in the last part the bias for the first answer. Every sixth step reads, so that nothing is
forgotten.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import Parameter
from transformers import (
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from pocket import WEIGHTS, data
from pocket.incline import EXAMPLES, incline_to_judge
from pocket.tokenizer import build
from pocket.train import Recipe, draw, encode, loss_of, padded, save

KEPT = 2  # layers that stay as they are


@dataclass(frozen=True)
class Lessons:
    """The recipe of the second phase.

    rate    highest learning rate of layer 4 and of the MLP of layer 3
    gentle  share of it for what the probes made in layers 2 and 3: larger steps destroy it
    hard    share of the steps after which hard contests come in, and after which most have come
    biased  share of the steps after which labels are biased
    tokens  tokens of a step of contests, padding included; `reading_tokens` of one that reads
    examples  contests that the initial values are fitted to
    """

    seed: int = 0
    steps: int = 800
    rate: float = 5e-4
    warmup: int = 50
    gentle: float = 0.12
    hard: tuple[float, float] = (0.15, 0.35)
    most_hard: float = 0.6
    biased: float = 0.6
    tokens: int = 2048
    reading_tokens: int = 1536
    examples: int = EXAMPLES


def descent(model: LlamaForCausalLM, lessons: Lessons) -> torch.optim.AdamW:
    """Make AdamW for what may change, in two groups: free, and gentle (see `Lessons`)."""
    for part in (model.model.embed_tokens, *model.model.layers[:KEPT]):
        part.requires_grad_(False)
    gentle: list[Parameter] = []
    free: list[Parameter] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            slow = name.startswith(("model.layers.2.", "model.layers.3.self_attn."))
            (gentle if slow else free).append(weight)
    groups = [{"params": free, "share": 1.0}, {"params": gentle, "share": lessons.gentle}]
    return torch.optim.AdamW(groups, lr=lessons.rate, betas=(0.9, 0.98), weight_decay=0.0)


def contests(
    lessons: Lessons, tokenizer: PreTrainedTokenizerFast, random: Random, done: float
) -> tuple[Tensor, Tensor]:
    """Make a batch of contests for a phase that is `done` so far (0 to 1): ids and loss weights."""
    start, full = lessons.hard
    hard = lessons.most_hard * min(1.0, max(0.0, (done - start) / (full - start)))
    rows: list[tuple[list[int], list[float]]] = []
    longest = 0
    while len(rows) * longest < lessons.tokens:
        rows.append(encode(tokenizer, data.lesson(random, hard, done >= lessons.biased)))
        longest = max(longest, len(rows[-1][0]))
    return padded(rows, tokenizer)


def teach(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lessons: Lessons
) -> dict[str, object]:
    """Teach a reader to judge, in place.

    returns  what to write down about it
    """
    started = time.monotonic()
    reading = Recipe(tokens=lessons.reading_tokens)
    random = Random(f"teach {lessons.seed}")
    torch.manual_seed(lessons.seed)
    incline_to_judge(model, tokenizer, random, lessons.examples)
    optimiser = descent(model, lessons)
    smooth = {"judging": 0.0, "reading": 1.0}
    for step in range(lessons.steps):
        done = step / lessons.steps
        rate = min(1.0, (step + 1) / lessons.warmup) * (0.55 + 0.45 * math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = lessons.rate * rate * group["share"]
        kind = "reading" if step % 6 == 5 else "judging"
        if kind == "reading":
            ids, weights = draw(reading, tokenizer, random, 12, judging=False)
        else:
            ids, weights = contests(lessons, tokenizer, random, done)
        loss, right = loss_of(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        smooth[kind] += 0.05 * (right - smooth[kind])
        if (step + 1) % 50 == 0:
            print(f"lesson {step + 1}: {smooth}", flush=True)
    model.requires_grad_(True)
    return {
        **{f"lessons_{name}": value for name, value in vars(lessons).items()},
        "lessons_minutes": round((time.monotonic() - started) / 60, 1),
    }


def continued(start: Path, out: Path, seed: int = 0) -> None:
    """Teach the reader in `start`, on the CPU, and write the whole model to `out`."""
    tokenizer = build(seed)  # not loaded: a loaded one is saved with traces of the folder
    model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    record = json.loads((start / "training.json").read_text())
    save(out, model, tokenizer, record | teach(model, tokenizer, Lessons(seed=seed)))


def main(
    start: Annotated[Path, typer.Argument(help="Folder of a reader, as the first phase left it.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights.")] = WEIGHTS,
    seed: Annotated[int, typer.Option(help="Everything is drawn from it.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Run the second phase alone."""
    torch.set_num_threads(threads)
    continued(start, out, seed)


if __name__ == "__main__":
    typer.run(main)
