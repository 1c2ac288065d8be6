"""The letters under which a judge knows the candidates."""

from __future__ import annotations

import hashlib
import json

from server.judge.ballot import Ballot

LETTERS = "ABCDEFGHIJKLMNOPQRSUVWXYZ"  # T is the tie
TIE = "T"


def letters(ballot: Ballot) -> tuple[str, ...]:
    """Return the letter of each slot.

    Random ones are drawn for every order anew, from the seed, the set of the texts and the order in
    terms of their canonical one: whoever sends the candidates in another order gets the same calls.
    """
    count = len(ballot.candidates)
    if ballot.lettering == "fixed":
        return tuple(LETTERS[:count])
    canonical = ballot.canonical()
    ranks = [canonical.index(index) for index in ballot.slots]
    drawn = json.dumps([ballot.seed, ranks, sorted(ballot.texts)])

    def chance(letter: str) -> bytes:
        return hashlib.sha256(f"{letter} {drawn}".encode()).digest()

    return tuple(sorted(LETTERS, key=chance)[:count])
