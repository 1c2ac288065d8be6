"""Sentences to translate into English, with a reference each: written for this repository.

`sentences.tsv` has 70 each of French, German and Spanish, of everyday life, news, technology and
talk, in that order; the licence is the repository's own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random

FILE = Path(__file__).parent / "sentences.tsv"
LANGUAGES = {"fr": "French", "de": "German", "es": "Spanish"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence in a language (its two letters), and what it means in English."""

    language: str
    source: str
    reference: str


def sentences() -> list[Sentence]:
    """Return all of them, as the file has them."""
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Sentence(**row) for row in rows]


def drawn(count: int, seed: int, languages: tuple[str, ...] = tuple(LANGUAGES)) -> list[Sentence]:
    """Return so many of them by a seed, the languages in turn; more are these and others."""
    each: list[Iterator[Sentence]] = []
    for language in languages:
        known = [sentence for sentence in sentences() if sentence.language == language]
        each.append(iter(Random(f"{seed} {language}").sample(known, len(known))))
    return list(chain.from_iterable(zip(*each, strict=False)))[:count]
