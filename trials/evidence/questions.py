"""Questions whose answer stands in one document of several; what surrounds it says nothing of it.

Natural questions have other questions' own passages around them: any, or those that share the most
words with the question. Any are easier than the paper's, which were retrieved for the question from
all of Wikipedia (Liu et al., arXiv 2307.03172).
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from server.errors import PlanError
from trials.datasets.rows import Row, read
from trials.evidence.retrieval import Searchable

ANSWER_IN = (
    "Answer the question from the search results; some of them are about something else. Reply "
    "with the answer alone, in a few words.\n\n{documents}\n"
)
VALUE_OF = "Each line is a key with its value.\n\n{documents}\n"
PASSAGES = "qa_data/nq-open-oracle.jsonl.gz"
PAIRS = "kv_retrieval_data/kv-retrieval-75_keys.jsonl.gz"


@dataclass(frozen=True, slots=True)
class Question:
    """One question among documents.

    gold       the document that answers it; others surround it, in their order
    answers    each of them right
    prompt     the user's message, `{documents}` where they stand
    tokens     that an answer may take
    """

    id: str
    gold: str
    others: tuple[str, ...]
    answers: tuple[str, ...]
    prompt: str
    tokens: int

    def documents(self, place: int) -> tuple[str, ...]:
        """Return all documents with the gold one at some place, from 0; -1 = last."""
        place %= len(self.others) + 1
        return (*self.others[:place], self.gold, *self.others[place:])

    def right(self, said: str) -> bool:
        """Say whether an answer is in what was said (the paper's best_subspan_em)."""
        return any(plain(answer) in plain(said) for answer in self.answers)


def natural(
    folder: Path, count: int, documents: int, seed: int, *, near: bool = False
) -> list[Question]:
    """Return questions of NaturalQuestions-Open with so many passages (PlanError).

    near    whether the others are those that share the most words with the question, in a random
            order; else they are any
    source  github.com/nelson-liu/lost-in-the-middle (MIT): nq-open-oracle
    """
    rows = read(folder / PASSAGES)
    random, passages = Random(seed), [_passage(row) for row in rows]
    asked = random.sample(range(len(rows)), _most(count, rows))
    words = [plain(passage) for passage in passages]
    found = Searchable(words) if near else None
    questions = []
    for index in asked:
        row = rows[index]
        order = (
            random.sample(range(len(rows)), len(rows))
            if found is None
            else found.nearest(plain(row.text("question")))
        )
        answers = [plain(each) for each in row.fields["answers"]]
        chosen = _others(order, index, answers, words, documents - 1)
        if near:
            random.shuffle(chosen)
        questions.append(_natural(index, row, passages[index], [passages[each] for each in chosen]))
    return questions


def _others(
    order: Sequence[int], index: int, answers: Sequence[str], words: Sequence[str], count: int
) -> list[int]:
    """Return the first passages of an order that are not the question's and hold no answer."""
    others = (
        other
        for other in order
        if other != index and not any(answer in words[other] for answer in answers)
    )
    return list(islice(others, count))


def _natural(index: int, row: Row, gold: str, others: Sequence[str]) -> Question:
    prompt = f"{ANSWER_IN}Question: {row.text('question')}?"
    return Question(f"nq/{index}", gold, tuple(others), tuple(row.fields["answers"]), prompt, 32)


def _passage(row: Row) -> str:
    [found] = row.fields["ctxs"]
    return f"{found['title']}: {found['text']}\n"


def key_values(folder: Path, count: int, documents: int, seed: int) -> list[Question]:
    """Return keys to look up among so many pairs of random identifiers (PlanError).

    source  github.com/nelson-liu/lost-in-the-middle (MIT): kv-retrieval-75
    """
    rows = read(folder / PAIRS)
    random = Random(seed)
    asked = sorted(random.sample(range(len(rows)), _most(count, rows)))
    return [_pair(index, rows[index], documents) for index in asked]


def _pair(index: int, row: Row, documents: int) -> Question:
    key, value = row.text("key"), row.text("value")
    pairs = [pair for pair in row.fields["ordered_kv_records"] if pair[0] != key]
    others = tuple(f"{one}: {other}\n" for one, other in pairs[: documents - 1])
    prompt = f"{VALUE_OF}Which value belongs to the key {key}? Reply with the value alone."
    return Question(f"kv/{index}", f"{key}: {value}\n", others, (value,), prompt, 48)


def _most(count: int, rows: Sequence[Row]) -> int:
    if not rows:
        raise PlanError("data must have a question, got none; name the folder of the data set")
    return min(count, len(rows))


def plain(text: str) -> str:
    """Return a text as SQuAD compares it: small letters, no punctuation, no articles, one space."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
