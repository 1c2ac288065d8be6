"""What is found again in a long text: numbers that it told once, asked for at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

import torch

from benchmarks._figures import Figure, ratio, table, told
from benchmarks._harness import Row
from benchmarks._loaded import Model
from benchmarks._long_texts import manual
from benchmarks._long_ways import Way, copied, read

DIGITS = 4  # of a number
KEYS = """
anchor basket candle dragon engine feather guitar hammer island jacket kettle ladder magnet needle
orange pencil quarry rabbit saddle tunnel umbrella valley walnut yogurt zipper bridge castle desert
forest garden harbor lantern
""".split()  # noqa: SIM905  sixty quotes more say nothing
FACT = "\nThe code of the {key} is{value}.\n"
QUESTION = "\nThe code of the {key} is"


@dataclass(frozen=True)
class Told:
    """A text with numbers in it.

    ids       of the whole text
    values    by key
    distance  by key: tokens from behind its number to the end
    """

    ids: tuple[int, ...]
    values: Mapping[str, str]
    distance: Mapping[str, int]


@dataclass(frozen=True)
class Found:
    """A question's answer: how far away it is, and how many of its digits are right."""

    distance: int
    right: int


def text(model: Model, tokens: int, seed: int) -> Told:
    """Return a text of about so many tokens of the manual, with numbers told at even distances."""
    random = Random(seed)
    keys = random.sample(KEYS, len(KEYS))
    values = {key: " " + "".join(random.choices("0123456789", k=DIGITS)) for key in KEYS}
    facts = {key: model.ids(FACT.format(key=key, value=values[key])) for key in keys}
    topics = manual()
    random.shuffle(topics)
    filler = list(chain.from_iterable(map(model.ids, topics)))
    between = (tokens - sum(map(len, facts.values()))) // len(keys)
    if between < 1 or len(filler) < tokens:
        raise SystemExit(
            f"text must have room for {len(keys)} facts, got {tokens} tokens; ask more"
        )
    ids, ends = list[int](), dict[str, int]()
    for number, key in enumerate(keys):
        ids += [*facts[key], *filler[number * between : (number + 1) * between]]
        ends[key] = len(ids) - between
    return Told(tuple(ids), values, {key: len(ids) - end for key, end in ends.items()})


def asked(model: Model, way: Way, told_text: Told) -> list[tuple[int, int]]:
    """Return what is found of every number (see `Found`), each asked for behind the same text."""
    digits = _digits(model)
    whole = way.reading()
    read(model, whole, told_text.ids)
    found = []
    for key, value in told_text.values.items():
        question, answer = model.ids(QUESTION.format(key=key)), model.ids(value)
        tokens = torch.tensor([[*question, *answer[:-1]]])
        logits = model.door.forward(tokens, copied(model, whole), DIGITS)[0]
        said = logits[:, list(digits)].argmax(-1).tolist()
        right = [
            token == list(digits)[each] for token, each in zip(answer[-DIGITS:], said, strict=True)
        ]
        found.append((told_text.distance[key], sum(right)))
    return found


def _digits(model: Model) -> dict[int, str]:
    """Return the tokens of the digits; refuse a model that has tokens of several."""
    tokens = {model.ids(f" {digit}{digit}")[-1]: str(digit) for digit in range(10)}
    if len(tokens) < 10 or len(model.ids(" 1234")) - len(model.ids(" 12")) != 2:
        raise SystemExit(
            "recall must be measured on a model whose tokens are single digits, got others"
        )
    return tokens


def show(title: str, found: Mapping[Way, Sequence[Found]], window: int) -> list[Row]:
    """Print the share of digits that are right, inside the window and outside; return them."""
    shown, rows = [], list[Row]()
    plain = next((each for way, each in found.items() if way.kind == "plain"), None)
    for way, answers in found.items():
        cells = [str(way)]
        for name, far in (("outside", True), ("inside", False)):
            part = [each for each in answers if (each.distance >= window) == far]
            share = _share(part)
            base = None if plain is None else _share(
                [each for each in plain if (each.distance >= window) == far])  # fmt: skip
            cells += [str(len(part)), told(share)]
            cells.append(f"{share[0] / base[0]:.2f}" if share and base and base[0] else "")
            if share is not None:
                rows.append(
                    Row(f"{title}, {name}", str(way), share[0], "of digits", base and base[0])
                )
        shown.append(cells)
    columns = ("numbers", "digits right", "/ plain's")
    outside, inside = (
        tuple(f"{name}: {each}" for each in columns) for name in ("outside", "inside")
    )
    table(f"{title}: digits found again, window {window:,}", ("", *outside, *inside), shown)
    return rows


def _share(found: Sequence[Found]) -> Figure | None:
    return ratio([(each.right, DIGITS) for each in found])
