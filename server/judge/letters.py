"""The labels under which a judge knows the candidates, and what they are called by them."""

from __future__ import annotations

import hashlib
import json

from server.judge.ballot import Ballot

LETTERS = "ABCDEFGHIJKLMNOPQRSUVWXYZ"  # T is the tie
TIE = "T"
NUMBERS = tuple("123456789")  # of ten and more most tokenizers make two tokens
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip


def letters(ballot: Ballot) -> tuple[str, ...]:
    """Return the label of each slot.

    Random ones are drawn for every order anew, from the seed, the set of the texts and the order in
    terms of their canonical one: whoever sends the candidates in another order gets the same calls.
    """
    count = len(ballot.candidates)
    if ballot.lettering != "random":
        return known(ballot)[:count]
    canonical = ballot.canonical()
    ranks = [canonical.index(index) for index in ballot.slots]
    drawn = json.dumps([ballot.seed, ranks, sorted(ballot.texts)])

    def chance(letter: str) -> bytes:
        return hashlib.sha256(f"{letter} {drawn}".encode()).digest()

    return tuple(sorted(LETTERS, key=chance)[:count])


def known(ballot: Ballot) -> tuple[str, ...]:
    """Return all labels that there are of a ballot's kind."""
    if ballot.lettering == "numbers":
        return NUMBERS
    return ORDINALS if ballot.lettering == "ordinals" else tuple(LETTERS)


def noun(labels: tuple[str, ...]) -> str:
    """Return what such labels are: letter, number or ordinal."""
    if labels[0] in ORDINALS:
        return "ordinal"
    return "number" if labels[0] in NUMBERS else "letter"


def title(label: str) -> str:
    """Return what the candidate with a label is called: answer A, answer 1, first answer."""
    return f"{label} answer" if label in ORDINALS else f"answer {label}"


def headings(ballot: Ballot) -> list[str]:
    """Return how the line of each slot's candidate begins."""
    titles = map(title, letters(ballot))
    return [each[0].upper() + each[1:] for each in titles]
