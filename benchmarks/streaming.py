"""Translations written while their source is read: how good, how late, and what they cost.

    python benchmarks/streaming.py [MODEL] [--sentences 60] [--out found.jsonl] [--plot FILE.svg]

Group positions, policy by policy, beside the plain model that reads all anew at every READ.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there pine.py would hide the package `pine`

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks._figures import Figure, table, told
from benchmarks._harness import Row, arguments, write
from benchmarks._kept import Kept
from benchmarks._loaded import Model
from benchmarks._sentences import Sentence, drawn
from benchmarks._stream_paths import PATHS, Asked
from benchmarks._stream_policies import Agreement, Wait, tokens_of
from benchmarks._stream_scores import chrf, counts, mean, more, plot
from pocket import WEIGHTS
from server.sessions.streams.latency import lagging

Policy = Wait | Agreement
POLICIES: Mapping[str, Policy] = {
    str(policy): policy
    for policy in (
        Wait(None), Wait(1), Wait(3, hold=False), Wait(3), Wait(5), Agreement(2)
    )
}  # fmt: skip


@dataclass(frozen=True)
class Translated:
    """What became of a sentence.

    text          the translation
    read          by its words, how many source words had been read
    fed, seen     target and source tokens that were computed
    seconds       that it took, with nothing to wait for
    """

    text: str
    read: Sequence[int]
    fed: int
    seen: int
    seconds: float


def translated(model: Model, policy: Policy, path: str, sentence: Sentence) -> dict[str, Any]:
    """Return the fields of `Translated`."""
    asked, tokens = Asked.of(model, sentence), tokens_of(model)
    begun = time.perf_counter()
    sequence = PATHS[path](model, asked)
    written = policy.run(sequence, asked, tokens)
    seconds = time.perf_counter() - begun
    read = dict[int, int]()
    for count, words in enumerate(written.read, 1):
        said = model.tokenizer.decode(written.tokens[:count]).split()
        if said:
            read[len(said)] = words
    text = model.tokenizer.decode(written.tokens).strip()
    by_word = [read[number] for number in sorted(read)]
    return vars(Translated(text, by_word, sequence.fed, sequence.seen, seconds))


def options_of(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark is told."""
    parser.add_argument(
        "model", type=Path, nargs="?", default=WEIGHTS, help="folder or GGUF file; without: pocket"
    )
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--languages", default="fr,de,es")
    parser.add_argument("--policies", default=";".join(POLICIES), help="with semicolons")
    parser.add_argument("--paths", default=",".join(PATHS))
    parser.add_argument("--out", type=Path, help="JSON Lines; a run goes on where it was stopped")
    parser.add_argument("--plot", type=Path, help="draw chrF against LAAL into this file")
    parser.add_argument("--show", type=int, default=0, help="print so many sentences")


def show(title: str, found: Mapping[tuple[str, str], Sequence[Translated]],
         sentences: Sequence[Sentence], file: Path | None) -> list[Row]:  # fmt: skip
    """Print what was found, one row a policy and path; draw it; return its figures."""
    references = [each.reference for each in sentences]
    kept = {key: counts([each.text for each in rows], references) for key, rows in found.items()}
    shown, rows, points = [], list[Row](), list[tuple[str, str, Figure, Figure]]()
    for (policy, path), each in found.items():
        base = kept.get((policy, "all anew"))
        score, late = chrf(kept[policy, path]), mean(_lags(each, sentences, longest=True))
        better = None if base is None or path == "all anew" else more(kept[policy, path], base)
        ratio = mean([len(one.read) / len(sentence.reference.split())
                      for one, sentence in zip(each, sentences, strict=True)])  # fmt: skip
        fed, seen, seconds = (
            [getattr(one, name) for one in each] for name in ("fed", "seen", "seconds")
        )
        shown.append((policy, path, told(score, 1), told(better, 1, sign="+"), told(late, 1),
                      told(mean(_lags(each, sentences, longest=False)), 1), told(ratio, 2),
                      f"{sum(fed):,}", f"{sum(seen):,}", f"{sum(seconds):.1f}"))  # fmt: skip
        case = f"{title}, {policy}, {path}"
        rows.append(Row(case, "chrF", score[0], "", better and score[0] - better[0]))
        rows.append(Row(case, "LAAL", late[0], "words"))
        rows.append(Row(case, "target tokens fed", sum(fed), "tokens"))
        points.append((policy, path, score, late))
    table(f"{title}: {len(sentences)} sentences into English", (
        "", "read", "chrF", "- all anew", "LAAL", "AL", "length / reference's", "target tokens fed",
        "source tokens fed", "s"), shown)  # fmt: skip
    if file is not None:
        plot(file, points)
    return rows


def _lags(found: Sequence[Translated], sentences: Sequence[Sentence], longest: bool) -> list[float]:
    """Return AL of each sentence, or LAAL."""
    return [
        lagging(
            each.read,
            len(sentence.source.split()),
            len(sentence.reference.split()) if longest else None,
        )
        for each, sentence in zip(found, sentences, strict=True)
    ]


@torch.inference_mode()
def main() -> None:
    """Translate, print, write."""
    options = arguments(__doc__ or "", options_of)
    torch.set_num_threads(options.threads)
    if options.quick:
        options.sentences, options.policies = 3, "all;wait-3"
    model, kept = Model.load(options.model, options.dtype), Kept(options.out)
    languages = tuple(options.languages.split(","))
    sentences = drawn(options.sentences, options.seed, languages)
    found = dict[tuple[str, str], list[Translated]]()
    for sentence in sentences:  # all of one, so that a run that is stopped compares the same ones
        for policy in options.policies.split(";"):
            for path in options.paths.split(","):
                key = f"{options.model.name} {policy} {path} {sentence.source}"
                make = partial(translated, model, POLICIES[policy], path, sentence)
                found.setdefault((policy, path), []).append(Translated(**kept.of(key, make)))
    for number, sentence in enumerate(sentences[: options.show]):
        print(f"\n{sentence.source}\n= {sentence.reference}")
        for (policy, path), each in found.items():
            print(f"  {policy}, {path}: {each[number].text}")
    rows = show(options.model.name, found, sentences, options.plot)
    write(rows, options.json)


if __name__ == "__main__":
    main()
