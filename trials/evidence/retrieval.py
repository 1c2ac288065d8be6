"""Which passages share the most words with a question: distractors as a search would return them.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond",
Foundations and Trends in Information Retrieval 3(4), 2009.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import log

SATURATION, LENGTH = 1.2, 0.75  # k1 and b, as they are commonly set


class Searchable:
    """Passages by their words.

    passages  split at white space; compared as they are
    """

    def __init__(self, passages: Sequence[str]) -> None:
        counted = [Counter(passage.split()) for passage in passages]
        lengths = [sum(words.values()) for words in counted]
        mean = sum(lengths) / max(len(lengths), 1)
        self._count = len(passages)
        self._weights: dict[str, dict[int, float]] = defaultdict(dict)
        for index, (words, length) in enumerate(zip(counted, lengths, strict=True)):
            norm = SATURATION * (1 - LENGTH + LENGTH * length / max(mean, 1))
            for word, times in words.items():
                self._weights[word][index] = times * (SATURATION + 1) / (times + norm)
        for holders in self._weights.values():
            rare = log(1 + (len(passages) - len(holders) + 0.5) / (len(holders) + 0.5))
            for index in holders:
                holders[index] *= rare

    def nearest(self, question: str) -> list[int]:
        """Return the passages, nearest to a question first, those without a word of it last."""
        score = dict.fromkeys(range(self._count), 0.0)
        for word in set(question.split()):
            for index, weight in self._weights.get(word, {}).items():
                score[index] += weight
        return sorted(score, key=lambda index: (-score[index], index))
