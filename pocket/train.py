"""Train the pocket model from a seed: `python -m pocket.train`.

A first phase, in this module, teaches it to read, a second one (`pocket.teach`) to judge.
Sequences are generated as they are needed. First they are short
and hold no contests, until the model has found out how to read a fact about somebody: everything
else builds on that, and it comes suddenly. Then they grow to 20 documents and contests come in.
"""

import json
import math
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Annotated

import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pocket import WEIGHTS, data
from pocket.tokenizer import CONTEXT, build

FEW = 4  # documents, at most, until reading is found
FOUND = 0.98  # share of answer and end tokens right at which it is
LATEST = 0.3  # share of the steps after which contests and more documents come in any case
# (share of the steps after that, most documents in a sequence), linear in between
CURRICULUM = ((0.0, 4.0), (0.40, 12.0), (0.70, 20.0))
COPYING = 0.7
BACK = (2, 3, 5, 6)  # tokens; see `incline_to_read`
LOOK = 14.0  # score of the token looked back at
MATCH = 2.4


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on.

    tokens   tokens of one step, padding included; the last row may widen the others a little more
    rate     highest learning rate, reached after `warmup` steps, a cosine down to a tenth
    threads  part of the recipe: sums in another order round differently
    """

    seed: int = 0
    steps: int = 2600
    tokens: int = 2048
    rate: float = 2e-3
    warmup: int = 100
    threads: int = 2
    device: str = "cpu"


def configuration(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Describe the model: 5 layers, 4 query heads on 2 key-value heads, tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attention_bias=True,  # what `incline_to_read` writes: to look back needs no content
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.08,  # about 1 / sqrt(hidden); with 0.02 it learns far more slowly
    )


@torch.no_grad()
def incline_to_copy(model: LlamaForCausalLM, share: float = COPYING) -> None:
    """Start every head inclined to look for tokens like its own and to write what it finds.

    Mimetic initialisation (Trockman and Kolter, 2023): queries start close to keys and the output
    projection close to the transpose of the value projection, so query-key and value-output
    products start near multiples of the identity. From independent matrices, copying is learned
    one kind of fact at a time (after 250 steps, 2 or 3 documents: 31 % right against 65 %).

    share  correlation of the paired matrices; 0 leaves the model as it is
    """
    rest = math.sqrt(1 - share**2)
    for layer in model.model.layers:
        attention, width = layer.self_attn, layer.self_attn.head_dim
        keys, values = attention.k_proj.weight.split(width), attention.v_proj.weight.split(width)
        queries = attention.q_proj.weight.split(width)
        outputs = attention.o_proj.weight.split(width, dim=1)
        for head, (query, output) in enumerate(zip(queries, outputs, strict=True)):
            shared = head // (len(queries) // len(keys))  # heads of one group share keys and values
            query.mul_(rest).add_(keys[shared], alpha=share)
            output.mul_(rest).add_(values[shared].T, alpha=share)


@torch.no_grad()
def incline_to_read(model: LlamaForCausalLM) -> None:
    """Start the first two layers inclined to find a fact again by the words before it.

    In "The city of Mira is Oslo." the name stands 3 tokens before the value and 2 before the place
    where an answer needs it; the noun 6 and 5. So the four heads of layer 0 look back 2, 3, 5 and 6
    tokens (a rotary score of constant vectors depends on distance alone) and write what they find,
    each into a subspace of its own; layer 1 looks for a place whose token at 3 is what it has at 2,
    and at 6 what it has at 5: an induction circuit (Olsson et al., 2022). It is learned without
    this too, but not within 2,000 steps; here, within 300.
    """
    for layer in model.model.layers:
        for name in "qkvo":
            getattr(layer.self_attn, f"{name}_proj").bias.zero_()
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    width, hidden = first.head_dim, model.config.hidden_size
    angles, half = model.model.rotary_emb.inv_freq, first.head_dim // 2
    strength = torch.zeros(half)
    strength[:3] = torch.tensor([0.5, 0.3, 0.2])  # the fastest turns tell neighbours apart
    strength = (strength * LOOK * math.sqrt(width)).sqrt()
    for weight in (first.q_proj.weight, first.k_proj.weight, second.q_proj.weight):
        weight.mul_(0.25)
    second.k_proj.weight.mul_(0.25)
    model.model.layers[0].mlp.down_proj.weight.mul_(0.1)
    for key in first.k_proj.bias.split(width):
        key[:half] = strength
    for back, query in zip(BACK, first.q_proj.bias.split(width), strict=True):
        query[:half] = strength * torch.cos(-back * angles)
        query[half:] = strength * torch.sin(-back * angles)
    found = torch.linalg.qr(torch.randn(hidden, width))[0].T
    written = torch.linalg.qr(torch.randn(hidden, hidden))[0]
    first.v_proj.weight.copy_(found.repeat(2, 1))
    first.o_proj.weight.copy_(0.3 * written)
    slow = torch.arange(10, half)  # turns too slow to matter over a prompt
    dims = torch.cat([slow, slow + half])
    spaces = written.split(width, dim=1)
    for head, query in enumerate(second.q_proj.weight.split(width)):
        query[dims] = MATCH * spaces[head // 2 * 2][:, dims].T
    for pair, key in enumerate(second.k_proj.weight.split(width)):
        key[dims] = MATCH * spaces[pair * 2 + 1][:, dims].T


class Course:
    """What a step trains on: few documents until reading is found, then more and contests.

    found  the step at which reading was found, None before
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.found: int | None = None
        self._right = 0.0

    def note(self, step: int, right: float) -> None:
        """Take in the share of a step's answer and end tokens that were right."""
        self._right += 0.02 * (right - self._right)
        if self.found is None and (self._right > FOUND or step >= LATEST * self.steps):
            self.found = step

    def most_documents(self, step: int) -> int:
        """Say how long sequences may be: 4, and after `found` up to 20."""
        if self.found is None:
            return FEW
        done = (step - self.found) / max(1, self.steps - self.found)
        for (start, low), (end, high) in pairwise(CURRICULUM):
            if done < end:
                return int(low + (high - low) * (done - start) / (end - start))
        return int(CURRICULUM[-1][1])


def encode(
    tokenizer: PreTrainedTokenizerFast, pieces: list[data.Piece]
) -> tuple[list[int], list[float]]:
    """Tokenise a sample piece by piece.

    returns  token ids, and for each the weight with which it is learned
    """
    ids: list[int] = []
    weights: list[float] = []
    for piece in pieces:
        new = tokenizer.encode(piece.text, add_special_tokens=False)
        ids += new
        weights += [piece.weight] * len(new)
    return ids, weights


def draw(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, random: Random, most: int, judging: bool
) -> tuple[Tensor, Tensor]:
    """Make the batch of one step.

    most     documents in a sequence, at most
    judging  whether contests may be drawn
    returns  ids [batch, query] int64, loss weights [batch, query] float32
    """
    # Long sequences are the hard ones and short ones are cheap: half of the steps are long.
    documents = most if random.random() < 0.5 else random.randint(2, most)
    rows: list[tuple[list[int], list[float]]] = []
    longest = 0
    while (len(rows) + 1) * longest <= recipe.tokens:
        pieces = data.sample(random, documents) if judging else data.sample(random, documents, 0.0)
        rows.append(encode(tokenizer, pieces))
        longest = max(longest, len(rows[-1][0]))
    ids, weights = padded(rows, tokenizer)
    return ids.to(recipe.device), weights.to(recipe.device)


def padded(
    rows: list[tuple[list[int], list[float]]], tokenizer: PreTrainedTokenizerFast
) -> tuple[Tensor, Tensor]:
    """Stack encoded samples, padding on the right: ids and loss weights [batch, query]."""
    longest = max(len(tokens) for tokens, _ in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    weights = torch.zeros(len(rows), longest)
    for row, (tokens, learned) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        weights[row, : len(tokens)] = torch.tensor(learned)
    return ids, weights


def loss_of(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Give the weighted mean cross entropy in nats, and the share right of what has weight 1.

    Padding is on the right and has weight 0, so causal attention needs no mask for it.
    """
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    weights = weights[:, 1:]
    learned = weights > 0
    logits = model.lm_head(hidden[learned])
    losses = functional.cross_entropy(logits, ids[:, 1:][learned], reduction="none")
    answers = weights[learned] == 1
    right = (logits.argmax(-1) == ids[:, 1:][learned])[answers].float().mean()
    return (losses * weights[learned]).sum() / weights.sum(), right.item()


def rate_at(recipe: Recipe, step: int) -> float:
    """Give the learning rate: linear to the peak, then a cosine to a tenth of it."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * (0.55 + 0.45 * math.cos(math.pi * done))


def optimiser(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """Make AdamW; matrices decay, the gains of the norms do not."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    gains = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)


def save(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    record: dict[str, object],
) -> None:
    """Write a checkpoint beside `folder`, then move it in file by file, so none is half written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        Path(beside, "training.json").write_text(json.dumps(record, indent=2) + "\n")
        for file in sorted(Path(beside).iterdir()):
            file.chmod(0o644)  # safetensors writes for its owner alone
            file.replace(folder / file.name)


def train(recipe: Recipe, out: Path, save_every: int = 200) -> LlamaForCausalLM:
    """Train, with a progress bar, and leave weights, tokenizer and a record in `out`.

    save_every  steps between checkpoints; the last step is always saved
    """
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = build(recipe.seed)
    model = LlamaForCausalLM(configuration(tokenizer))
    incline_to_copy(model)
    incline_to_read(model)
    model.to(torch.device(recipe.device))  # type: ignore[arg-type]
    descent = optimiser(model, recipe)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    course, random, smooth = Course(recipe.steps), Random(f"train {recipe.seed}"), 0.0
    with Progress(*columns, TimeRemainingColumn(), refresh_per_second=1) as progress:
        task = progress.add_task("training", total=recipe.steps)
        for step in range(recipe.steps):
            for group in descent.param_groups:
                group["lr"] = rate_at(recipe, step)
            most, judging = course.most_documents(step), course.found is not None
            ids, weights = draw(recipe, tokenizer, random, most, judging)
            loss, right = loss_of(model, ids, weights)
            course.note(step, right)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            descent.step()
            descent.zero_grad()
            smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
            progress.update(task, advance=1, description=f"step {step + 1}, loss {smooth:.3f}")
            if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
                elapsed = progress.tasks[task].elapsed or 0.0
                record = {
                    **vars(recipe),
                    "parameters": model.num_parameters(),
                    "steps_done": step + 1,
                    "loss": round(smooth, 4),
                    "reading_found": course.found,
                    "most_documents": most,
                    "right": round(right, 3),
                    "minutes": round(elapsed / 60, 1),
                }
                save(out, model, tokenizer, record)
                progress.console.print(record)
    model.train(False)
    return model


def main(
    seed: Annotated[int, typer.Option(help="Everything is drawn from it.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = Recipe.steps,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = Recipe.threads,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto for cuda where it is.")] = "auto",
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 200,
    out: Annotated[Path, typer.Option(help="Folder for weights and tokenizer.")] = WEIGHTS,
) -> None:
    """Train the pocket model, both phases, and write its weights."""
    from pocket.teach import continued  # it builds on this module

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    train(Recipe(seed=seed, steps=steps, threads=threads, device=device), out, save_every)
    continued(out, out, seed)


if __name__ == "__main__":
    typer.run(main)
