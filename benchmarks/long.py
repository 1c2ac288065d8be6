"""Long texts read by LM-Infinite: what a token costs, what it loses, what is found again, a chat.

    python benchmarks/long.py [MODEL] [--parts cost,loss,recall,chat] [--out found.jsonl]

Beside plain attention, a window without first tokens, and a window that is read again.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there pine.py would hide the package `pine`

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from benchmarks import _long_chat as chat
from benchmarks import _long_cost as cost
from benchmarks import _long_loss as loss
from benchmarks import _long_recall as recall
from benchmarks import _long_texts as texts
from benchmarks._harness import Row, arguments, write
from benchmarks._kept import Kept
from benchmarks._loaded import Model
from benchmarks._long_ways import Way
from pocket import WEIGHTS

Texts = Iterator[tuple[int, ...]]


def more(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark is told."""
    parser.add_argument(
        "model", type=Path, nargs="?", default=WEIGHTS, help="folder or GGUF file; without: pocket"
    )
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON Lines; a run goes on where it was stopped")
    parser.add_argument("--parts", default="cost,loss,recall,chat")
    costs = parser.add_argument_group("cost")
    costs.add_argument("--lengths", default="1024,4096,8192,16384,65536,131072,1048576")
    costs.add_argument("--window", type=int, help="without: the trained length, at most 2048")
    costs.add_argument("--really", type=int, default=2**20, help="tokens read, one by one")
    costs.add_argument("--plain", type=int, default=2**17, help="most tokens of plain attention")
    costs.add_argument("--stock", type=int, default=2**14, help="most of transformers' cache")
    costs.add_argument("--turns", type=int, default=30)
    losses = parser.add_argument_group("loss")
    losses.add_argument("--ways", help="of reading, as lambda:512; see _long_ways.py")
    losses.add_argument("--text", default="prose", help="prose, code, sampled, or a file")
    losses.add_argument("--texts", type=int, default=5)
    losses.add_argument("--tokens", type=int, help="of a text; without: four times the trained")
    losses.add_argument("--bands", help="ends of what is told together; without: by doubling")
    losses.add_argument("--perplexity", action="store_true", help="instead of nats")
    losses.add_argument("--stride", type=int, default=16, help="tokens for which a window is read")
    found = parser.add_argument_group("recall")
    found.add_argument("--recall-window", type=int, default=1024)
    found.add_argument("--recall-tokens", type=int, default=4096)
    found.add_argument("--documents", type=int, default=4, help="of 32 numbers each")
    chats = parser.add_argument_group("chat")
    chats.add_argument("--chats", type=int, default=5)
    chats.add_argument("--chat-window", type=int, default=512)
    chats.add_argument("--windows", type=int, default=5, help="that a chat is long")
    chats.add_argument("--temperature", type=float, default=0.0)


def measure_cost(model: Model, kept: Kept, options: argparse.Namespace) -> list[Row]:
    """Measure what a token costs; print it."""
    window = options.window or min(model.trained, 2048)
    lengths = tuple(map(int, options.lengths.split(",")))
    asked = cost.Asked(lengths, window, options.really, options.plain, options.stock)
    key = f"cost {options.model.name} {asked} {options.turns} {options.seed}"
    found = kept.of(key, lambda: vars(cost.costs(model, asked, options.turns, options.seed)))
    title = f"{options.model.name}, window {window:,}: what a token costs"
    return cost.show(title, cost.Costs(**found), _near(lengths, 4096), _near(lengths, 8192))


def _near(lengths: tuple[int, ...], wanted: int) -> int:
    return min(lengths, key=lambda length: abs(length - wanted))


def measure_loss(model: Model, kept: Kept, options: argparse.Namespace) -> list[Row]:
    """Measure the loss by position; print it."""
    tokens = options.tokens or 4 * model.trained
    said = options.ways or "plain,lambda:{0},zero:{0},true:{0},again:{0}".format(model.trained // 2)
    bands = _bands(options, tokens)
    found: dict[Way, list[list[int]]] = {Way.of(each): [] for each in said.split(",")}
    drawn = islice(_texts(model, options, tokens), options.texts)
    source = f"{options.model.name} {options.text} {tokens} {options.seed}"
    for number, ids in enumerate(drawn):
        for way, all_of_it in found.items():
            stride = f" {options.stride}" if way.kind == "again" else ""
            key = f"loss {source} {number} {way}{stride}"
            all_of_it.append(
                kept.of(key, partial(loss.by_position, model, way, ids, options.stride))
            )
    return loss.show(f"{options.model.name}, {options.text}", found, bands, options.perplexity)


def _texts(model: Model, options: argparse.Namespace, tokens: int) -> Texts:
    named = {"prose": texts.prose, "code": texts.code, "sampled": texts.sampled}
    if options.text in named:
        return named[options.text](model, tokens, options.seed)
    return texts.file(model, tokens, Path(options.text))


def _bands(options: argparse.Namespace, tokens: int) -> list[int]:
    if options.bands:
        return list(map(int, options.bands.split(",")))
    ends = [tokens]
    while ends[0] > 256:
        ends.insert(0, ends[0] // 2)
    return [0, *ends]


def measure_recall(model: Model, kept: Kept, options: argparse.Namespace) -> list[Row]:
    """Measure what is found again; print it."""
    window, tokens = options.recall_window, options.recall_tokens
    ways = [Way("plain"), Way("lambda", window)]
    found: dict[Way, list[recall.Found]] = {way: [] for way in ways}
    for number in range(options.documents):
        told = recall.text(model, tokens, options.seed + number)
        for way, answers in found.items():
            key = f"recall {options.model.name} {tokens} {options.seed + number} {way}"
            made = kept.of(key, partial(recall.asked, model, way, told))
            answers += [recall.Found(*each) for each in made]
    return recall.show(f"{options.model.name}, {tokens:,} tokens", found, window)


def measure_chat(model: Model, kept: Kept, options: argparse.Namespace) -> list[Row]:
    """Measure chats without end; print what replies are worth."""
    window, found = options.chat_window, dict[Way, list[list[int]]]()
    for kind in ("plain", "lambda", "zero", "cut", "again"):
        way, asked = Way(kind, window), (options.windows, options.temperature)
        for seed in range(options.seed, options.seed + options.chats):
            key = f"chat {options.model.name} {way} {window} {asked} {seed}"
            turns = kept.of(
                f"{key} turns", partial(chat.talk, model, way, asked[0], seed, asked[1])
            )
            worth = kept.of(f"{key} worth", partial(chat.worth, model, turns, window))
            found.setdefault(way, []).append(worth)
    return chat.show(f"{options.model.name}, {options.windows} windows of {window:,}", found)


PARTS = {
    "cost": measure_cost,
    "loss": measure_loss,
    "recall": measure_recall,
    "chat": measure_chat,
}


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "", more)
    torch.set_num_threads(options.threads)
    if options.quick:
        options.lengths, options.really, options.turns = "512,1024,2048,65536", 2048, 3
        options.window, options.stock, options.plain = 256, 2048, 2048
        options.texts, options.tokens, options.ways = 1, 1024, "plain,lambda:256,zero:256"
        options.recall_tokens, options.recall_window, options.documents = 1024, 256, 1
        options.chats, options.chat_window, options.windows = 1, 256, 2
    model, kept = Model.load(options.model, options.dtype), Kept(options.out)
    rows = [row for part in options.parts.split(",") for row in PARTS[part](model, kept, options)]
    write(rows, options.json)


if __name__ == "__main__":
    main()
