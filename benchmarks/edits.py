"""Edits of real code: what the next tokens become, and what that costs, beside computing all anew.

    python benchmarks/edits.py [MODEL] [--files 40] [--out answers.jsonl]

Left of the cursor (what follows it is not told to the model), while a hole is filled in, and after
chains of edits; then the time to the first token. The truth is the whole text computed anew.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there pine.py would hide the package `pine`

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._edits import KINDS, Case, cases, edited, windows
from benchmarks._harness import Row, arguments, medians, show
from benchmarks._kept import Kept
from benchmarks._loaded import Model as Loaded
from kvedit.diff import hunks
from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind, Reading, whole_text
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import causal
from pocket import WEIGHTS
from portia.intervals import Rate, resample
from server.engines.hf.edited import EditedForward, EditedText, Healing
from server.prompt import Part, TextPrompt

AHEAD = 16  # positions whose distributions are compared
HARD = 0.2  # nats by which a chosen token is worse than the right one
FELT = 0.02  # nats from which an edit matters to the next tokens
RECIPE = Healing(after=32, read=0.05, max_edits=20, exact=False)
PAPER = Healing(after=0, read=0.0, max_edits=10**6, exact=False)
METHODS: Mapping[str, Healing] = {"PIE": PAPER, "recipe": RECIPE}
TYPED = (1, 8, 16, 32)  # tokens
CHAIN = (1, 5, 20, 100)  # edits
TYPED_IN = 2048  # tokens of a text that is typed into, where that is timed
LAST = 4  # lines behind the cursor of a chain


class Conflict:
    """Conflict fast encoding (arXiv 2407.03157, section 4): what follows an edit is not moved."""

    def __init__(self, length: int, old: Sequence[tuple[int, int]]) -> None:
        self._old, self._length = old, length
        self._spans: dict[int, list[Span]] = {}
        self.own: dict[int, Span] = {}

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so."""
        return whole_text(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return one forward of everything."""
        return (range(length),)

    def hold(self, whole: PlainReading) -> None:
        """Take what is kept of another reading."""
        for index, span in whole._spans.items():
            self._spans[index] = [span.cut(*ends) for ends in self._old]

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """See what is kept where it was, and what is new where it is."""
        own = self.own.setdefault(layer.index, Span(layer.geometry))
        first = own.length
        own.append(key, value)
        kept = [Sight(span, 0) for span in self._spans[layer.index] if span.held]
        sights = (*kept, Sight(own, self._length, causal))
        return (Rows(slice(0, key.shape[2]), self._length + first, sights),)

    def report(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}


class Model(Loaded):
    """A model that is asked what comes next."""

    def hole(self, before: str, after: str) -> tuple[int, ...]:
        """Return the prompt of a hole between two texts."""
        return self.encoder.encode(TextPrompt((Part(before),), suffix=after)).ids

    def ahead(self, reading: Reading, first: Tensor, rest: Sequence[int]) -> Tensor:
        """Return the log-probabilities of what comes, and behind each token of what does come.

        first    logits behind the text, [vocab]
        returns  [AHEAD, vocab] float32
        """
        rows = [first[None]]
        if rest:
            keep = list(range(len(rest)))
            rows.append(self.door.forward(torch.tensor([rest]), reading, keep)[0])
        return torch.cat(rows).float().log_softmax(-1)

    def anew(self, ids: Sequence[int], rest: Sequence[int]) -> Tensor:
        """Return the same for a text that is computed anew."""
        reading = PlainReading()
        first = self.door.forward(torch.tensor([list(ids)]), reading, 1)[0, -1]
        return self.ahead(reading, first, rest)


@dataclass(frozen=True)
class Compared:
    """How far what comes is from the truth.

    kl, kl16   of the next token's distribution, and the mean over AHEAD positions, nats
    top1       whether the next token is the same
    agree      share of positions with the same likeliest token
    hard       share of positions where the chosen one is HARD worse than the likeliest
    rows       tokens computed before the first answer
    """

    kl: float
    kl16: float
    top1: float
    agree: float
    hard: float
    rows: int

    @classmethod
    def of(cls, truth: Tensor, found: Tensor, rows: int) -> Compared:
        """Compare two, [positions, vocab]."""
        kl = (truth.exp() * (truth - found)).sum(-1).clamp_min(0)
        chosen, best = found.argmax(-1), truth.argmax(-1)
        regret = truth.max(-1).values - truth.gather(1, chosen[:, None])[:, 0]
        same = (chosen == best).float()
        worse = (regret > HARD).float()
        return cls(float(kl[0]), float(kl.mean()), float(same[0]), float(same.mean()),
                   float(worse.mean()), rows)  # fmt: skip


def start(model: Model, healing: Healing, ids: tuple[int, ...]) -> EditedText:
    """Return a text that was read whole."""
    text = EditedText(model.door, healing, model.control)
    text.become((), ids)
    text.forward.read(text.ready(), 1)
    return text


def answered(text: EditedText) -> tuple[Tensor, int]:
    """Return the logits behind a text, [vocab], and how many tokens were computed for them."""
    pending = text.ready()
    counted = [pending.shape[1]]
    forward = text.forward.pending

    def counting(like: Tensor) -> Tensor:
        made = forward(like)
        counted.append(made.shape[1])
        return made

    text.forward.pending = counting  # type: ignore[method-assign]
    try:
        return text.forward.read(pending, 1)[0, -1], sum(counted)
    finally:
        text.forward.pending = forward  # type: ignore[method-assign]


def copied(model: Model, text: EditedText, healing: Healing) -> EditedText:
    """Return a text as far as it was read, to be edited apart from it."""
    made = EditedText(model.door, healing, model.control)
    made.reading = deepcopy(text.reading)
    made.forward = EditedForward(model.door, made.reading, healing.read)
    made.forward.ids = text.ids
    return made


def heal_all(text: EditedText) -> None:
    """Heal until nothing is stale, as a worker does that has nothing else to do, but at once."""
    text.reading.heal(text.reading.stale)
    text.forward.read(text.ready(), 1)


def left(model: Model, case: Case, random: Random) -> dict[str, Compared]:
    """Return what every method makes of one edit, left of the cursor."""
    old, new = model.ids(case.old), model.ids(case.new)
    rest = model.ids(case.rest)[: AHEAD - 1]
    truth = model.anew(new, rest)
    found = _unedited(model, truth, old, new, rest)
    begun = start(model, PAPER, old)

    def compared(text: EditedText) -> Compared:
        first, rows = answered(text)
        return Compared.of(truth, model.ahead(text.reading, first, rest), rows)

    for name, healing in METHODS.items():
        text = copied(model, begun, healing)
        text.become(old, new)
        found[name] = compared(text)
    text.become([*new, *rest], new)  # the recipe's
    heal_all(text)
    found["recipe, healed when idle"] = replace(compared(text), rows=len(new))
    text = copied(model, begun, PAPER)
    text.become(old, new)
    stale = text.reading.stale
    text.reading.heal(random.sample(stale, min(len(stale), len(new) // 10)))
    found["PIE + random 10 %"] = compared(text)
    return found


def _unedited(
    model: Model, truth: Tensor, old: Sequence[int], new: Sequence[int], rest: Sequence[int]
) -> dict[str, Compared]:
    """Return what the old text says, and the old one with what is new where it belongs."""
    whole = PlainReading()
    last = model.door.forward(torch.tensor([list(old)]), whole, 1)[0, -1]
    kept, done, fresh = list[tuple[int, int]](), 0, list[int]()
    for hunk in hunks(old, new):
        kept.append((done, hunk.start))
        fresh += hunk.ids
        done = hunk.stop
    kept.append((done, max(done, len(old) - 1)))  # the last token is read again
    reading = Conflict(len(new) - 1 - len(fresh), kept)
    reading.hold(whole)
    tokens = torch.tensor([[*fresh, new[-1]]])
    first = model.door.forward(tokens, reading, 1)[0, -1]
    conflict = Compared.of(truth, model.ahead(reading, first, rest), tokens.shape[1])
    plain = Compared.of(truth, model.ahead(whole, last, rest), 0)
    return {"no edit": plain, "conflict fast encoding": conflict}


def filled(model: Model, lines: list[str], typed: int, random: Random) -> dict[str, Compared]:
    """Return what every method makes of typing into a hole."""
    at = random.randrange(len(lines) // 3, 2 * len(lines) // 3)
    before, after = model.ids("".join(lines[:at])), model.ids("".join(lines[at:]))
    suffix = model.tokenizer.decode(after[typed:])

    def prompt(count: int) -> tuple[int, ...]:
        return model.hole(model.tokenizer.decode([*before, *after[:count]]), suffix)

    old, new, rest = prompt(0), prompt(typed), list(after[typed : typed + AHEAD - 1])
    truth = model.anew(new, rest)
    found = {"no edit": Compared.of(truth, model.anew(old, rest), 0)}
    begun = start(model, PAPER, old)
    without = copied(replace(model, control=frozenset()), begun, PAPER)
    texts = {name: copied(model, begun, healing) for name, healing in METHODS.items()}
    for name, text in {**texts, "PIE without pivots": without}.items():
        text.become(old, new)
        first, rows = answered(text)
        found[name] = Compared.of(truth, model.ahead(text.reading, first, rest), rows)
    return found


def chained(model: Model, lines: list[str], random: Random, most: int) -> Iterator[tuple[int, Any]]:
    """Yield what every method makes of a text after 1, 5, 20, 100 edits, each read at once."""
    lines, behind = lines[:-LAST], "".join(lines[-LAST:])
    rest = model.ids(behind)[: AHEAD - 1]
    ids = model.ids("".join(lines))
    texts = {name: start(model, healing, ids) for name, healing in METHODS.items()}
    for number in range(1, most + 1):
        kind, place = random.choice(list(KINDS)), random.uniform(0.05, 0.8)
        made = edited(lines, kind, place, random)
        if made is None:
            continue
        lines = made[0]
        ids = model.ids("".join(lines))
        found = {}
        truth = model.anew(ids, rest) if number in CHAIN else None
        for name, text in texts.items():
            text.become(text.ids, ids)
            first, rows = answered(text)
            if truth is not None:
                found[name] = Compared.of(truth, model.ahead(text.reading, first, rest), rows)
                text.become([*ids, *rest], ids)
        if found:
            yield number, found


def put_in(model: Model, tokens: int) -> Iterator[tuple[int, ...]]:
    """Yield texts of so many tokens, each with 40 others in its middle."""
    whole, random = long_text(model, tokens - 40), Random(3)
    half = len(whole) // 2
    while True:
        yield (*whole[:half], *(random.choice(whole) for _ in range(40)), *whole[half:])


def typed_in(model: Model, tokens: int) -> Iterator[tuple[int, ...]]:
    """Yield prompts of about so many tokens with a hole in the middle, one more typed each time."""
    whole = long_text(model, tokens + tokens // 4)
    half = tokens // 2
    suffix = model.tokenizer.decode(whole[-half:])
    while True:
        for end in range(half, len(whole) - half):
            yield model.hole(model.tokenizer.decode(whole[:end]), suffix)


def long_text(model: Model, tokens: int) -> tuple[int, ...]:
    """Return so many tokens of the library."""
    lines = [line for _, window in windows(7, 60, 1200) for line in window]
    return model.ids("".join(lines))[:tokens]


def times(model: Model, case: str, texts: Iterator[tuple[int, ...]], runs: int) -> list[Row]:
    """Time the first token behind the next of some texts, against both alternatives."""
    ways = {"prefix reuse": Healing(), "PIE": PAPER,
            "recipe": Healing(RECIPE.after, RECIPE.read, 10**6, exact=False)}  # fmt: skip
    held = {name: start(model, healing, next(texts)) for name, healing in ways.items()}

    def one(text: EditedText) -> Callable[[], float]:
        def run() -> float:
            text.become(text.ids, next(texts))  # each from the same to the same kind of text
            text.forward.read(text.ready(), 1)
            new = next(texts)
            begun = time.perf_counter()
            text.become(text.ids, new)
            text.forward.read(text.ready(), 1)
            return time.perf_counter() - begun

        return run

    def full() -> float:
        new = torch.tensor([list(next(texts))])
        begun = time.perf_counter()
        model.door.forward(new, PlainReading(), 1)
        return time.perf_counter() - begun

    found = medians(runs, {"full": full, **{name: one(text) for name, text in held.items()}})
    rows = []
    for name in ways:
        for beside in ("full", "prefix reuse"):
            if name != beside:
                metric = f"{name}, first token against {beside}"
                rows.append(Row(case, metric, found[name] * 1e3, "ms", found[beside] * 1e3))
    return rows


def table(title: str, found: Mapping[str, Sequence[Compared]]) -> None:
    """Print what was found, one row a method, with intervals of the shares."""
    shown = Table(title=title)
    for column in ("", "n", "KL next, median / p90", f"KL {AHEAD}, median / p90", "top-1",
                   f"agree {AHEAD}", "hard", "missing share, median", "rows"):  # fmt: skip
        shown.add_column(column)
    none = found.get("no edit", ())
    for name, rows in found.items():
        kl, kl16 = (np.array([getattr(row, key) for row in rows]) for key in ("kl", "kl16"))
        shares = [_share([getattr(row, key) for row in rows]) for key in ("top1", "agree", "hard")]
        felt = [row.kl16 / base.kl16 for row, base in zip(rows, none, strict=False)
                if base.kl16 > FELT]  # fmt: skip
        missing = f"{np.median(felt):.3f} ({len(felt)})" if felt else ""
        shown.add_row(name, str(len(rows)), f"{np.median(kl):.2g} / {np.quantile(kl, 0.9):.2g}",
                      f"{np.median(kl16):.2g} / {np.quantile(kl16, 0.9):.2g}", *shares, missing,
                      f"{np.median([row.rows for row in rows]):.0f}")  # fmt: skip
    Console(width=170).print(shown)


def _share(values: Sequence[float]) -> str:
    counts = [(round(1000 * value), 1000) for value in values]
    above, below = resample(counts, 2).T
    rate = Rate.of(above, below, share=False)
    low, high = rate.bootstrap or (0.0, 1.0)
    return f"{rate.value:.3f} ({low:.3f} to {high:.3f})"


def remembered(
    kept: Kept, key: str, make: Callable[[], Mapping[str, Compared]]
) -> dict[str, Compared]:
    """Return what is known, or find it."""
    found = kept.of(key, lambda: {name: vars(each) for name, each in make().items()})
    return {name: Compared(**each) for name, each in found.items()}


def more(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark is told."""
    parser.add_argument(
        "model", type=Path, nargs="?", default=WEIGHTS, help="folder or GGUF file; without: pocket"
    )
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--edits", type=int, default=4, help="of a file")
    parser.add_argument("--cursors", type=int, default=3, choices=(1, 2, 3), help="of an edit")
    parser.add_argument("--tokens", type=int, default=700, help="of a text, about")
    parser.add_argument("--holes", type=int, default=20, help="to type into")
    parser.add_argument("--chains", type=int, default=3)
    parser.add_argument("--lengths", default="1024,4096", help="of the texts that are timed")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--parts", default="left,holes,chains,times,typing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON Lines; a run goes on where it was stopped")


Make = Callable[[], Mapping[str, Compared]]


def edits_left(model: Model, options: argparse.Namespace) -> Iterator[tuple[str, str, Make]]:
    """Yield the edits left of a cursor: title, key, and what measures one."""
    drawn = cases(options.seed, options.files, options.tokens, options.edits, options.cursors)
    for number, case in enumerate(drawn):
        place = f"{case.kind} {case.place:.2f} {case.cursor}"
        key = f"left {options.seed} {options.tokens} {options.dtype} {case.file} {place}"
        yield "left of the cursor", key, partial(left, model, case, Random(number))


def holes(model: Model, options: argparse.Namespace) -> Iterator[tuple[str, str, Make]]:
    """Yield the holes that are typed into, as `edits_left`."""
    drawn = windows(options.seed + 1, options.holes, options.tokens)
    for number, (name, lines) in enumerate(drawn):
        for typed in TYPED:
            key = f"hole {options.seed} {options.tokens} {options.dtype} {number} {name} {typed}"
            make = partial(filled, model, lines, typed, Random(number))
            yield f"a hole, {typed} tokens typed", key, make


def chains(model: Model, options: argparse.Namespace) -> Iterator[tuple[str, str, Make]]:
    """Yield chains of edits, as `edits_left`; each is measured when its lengths are."""
    drawn = windows(options.seed + 2, options.chains, options.tokens)
    for number, (_, lines) in enumerate(drawn):
        for length, found in chained(model, lines, Random(number), max(CHAIN)):
            key = f"chain {options.seed} {options.dtype} {number} {length}"
            yield f"after {length} edits", key, found.copy


PARTS = {"left": edits_left, "holes": holes, "chains": chains}


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__ or "", more)
    torch.set_num_threads(options.threads)
    if options.quick:
        options.files, options.holes, options.chains, options.runs = 4, 2, 0, 3
    model, kept = Model.load(options.model, options.dtype), Kept(options.out)
    tables = dict[str, dict[str, list[Compared]]]()
    for part in options.parts.split(","):
        for title, key, make in PARTS[part](model, options) if part in PARTS else ():
            for name, each in remembered(kept, key, make).items():
                tables.setdefault(title, defaultdict(list))[name].append(each)
    for title, found in tables.items():
        table(f"{options.model.name}: {title}", found)
    rows = []
    for tokens in map(int, options.lengths.split(",")) if "times" in options.parts else ():
        case, texts = f"{tokens} tokens, 40 new in the middle", put_in(model, tokens)
        rows += times(model, case, texts, options.runs)
    if "typing" in options.parts:
        case = f"a hole in {TYPED_IN} tokens, one more typed"
        rows += times(model, case, typed_in(model, TYPED_IN), options.runs)
    if rows:
        show(f"{options.model.name}: time to the first token", rows, options.json)


if __name__ == "__main__":
    main()
