"""Long texts that need no download: the language's own manual, and what a model says by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from random import Random

import torch

from benchmarks._edits import sources
from benchmarks._loaded import Model
from kvedit.plain import PlainReading

LINE = 40  # characters: shorter lines repeat by chance
REPEATED = 0.2  # of a topic in longer ones: it is left out
ROWS = 16  # stories that are sampled at once


def manual() -> list[str]:
    """Return the topics of Python's manual that do not repeat others, the longest first."""
    kept, seen = list[str](), set[str]()
    for text in sorted(topics.values(), key=len, reverse=True):
        lines = [line for line in text.splitlines() if len(line) > LINE]
        again = sum(len(line) for line in lines if line in seen)
        if again <= REPEATED * sum(map(len, lines)):
            kept.append(text)
            seen.update(lines)
    return kept


def prose(model: Model, tokens: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield texts of so many tokens of the manual, none of whose parts is in another.

    The order of the topics is the seed's; a text may begin within one and go on with the next.
    """
    every = manual()
    Random(seed).shuffle(every)
    ids = list[int]()
    for text in every:
        ids += model.ids(text + "\n\n")
        while len(ids) >= tokens:
            yield tuple(ids[:tokens])
            ids = ids[tokens:]


def code(model: Model, tokens: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield the first tokens of long files of the interpreter's library."""
    files = sources()
    Random(seed).shuffle(files)
    for path in files:
        ids = model.ids(path.read_text(encoding="utf-8", errors="replace")[: 16 * tokens])
        if len(ids) >= tokens:
            yield ids[:tokens]


def file(model: Model, tokens: int, path: Path) -> Iterator[tuple[int, ...]]:
    """Yield the texts of so many tokens that a file has."""
    ids = model.ids(path.read_text(encoding="utf-8"))
    for begin in range(0, len(ids) - tokens + 1, tokens):
        yield ids[begin : begin + tokens]


def sampled(model: Model, tokens: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield texts that the model says by itself: one story after the other, each by itself.

    So no story is longer than what the model was trained to read.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = list[int]()
    while True:
        for story in _stories(model, generator):
            ids += story
        while len(ids) >= tokens:
            yield tuple(ids[:tokens])
            ids = ids[tokens:]


def _stories(model: Model, generator: torch.Generator) -> list[list[int]]:
    """Return stories, each from the first token to before the next one's."""
    begin = model.tokenizer.bos_token_id
    if begin is None:
        begin = model.tokenizer.eos_token_id
    ends = {begin, model.tokenizer.eos_token_id}
    told = torch.full((ROWS, 1), begin)
    reading = PlainReading()
    for _ in range(model.trained - 1):
        logits = model.door.forward(told[:, -1:], reading)[:, -1].float()
        said = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        told = torch.cat((told, said), 1)
    rows = []
    for row in told.tolist():
        last = next((at for at, token in enumerate(row) if at and token in ends), len(row))
        rows.append(row[:last])
    return rows
