"""How good translations are, and how late: chrF and LAAL, with intervals over sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.chrf import CHRF

from portia.intervals import COVERED, DRAWS

if TYPE_CHECKING:
    from benchmarks._figures import Figure

Counts = NDArray[np.int64]


def counts(said: Sequence[str], references: Sequence[str]) -> Counts:
    """Return what chrF counts of each sentence, [sentences, 3 * 6]."""
    rows = CHRF()._extract_corpus_statistics(list(said), [list(references)])
    return np.array(rows, dtype=np.int64)


def chrf(found: Counts, seed: int = 0) -> Figure:
    """Return chrF of a corpus (sacrebleu's), with the interval over sentences."""
    return _told(_draws(found, seed))


def more(found: Counts, base: Counts, seed: int = 0) -> Figure:
    """Return by how much one corpus is better than another, sentence by sentence the same."""
    return _told(_draws(found, seed) - _draws(base, seed))


def mean(values: Sequence[float], seed: int = 0) -> Figure:
    """Return a mean with its interval over sentences."""
    found = np.asarray(values)
    return _told(_weights(len(found), seed) @ found / len(found))


def _draws(found: Counts, seed: int) -> NDArray[np.float64]:
    """Return the score of all, then of as many drawn with replacement: the same for one seed."""
    metric, sums = CHRF(), _weights(len(found), seed) @ found
    return np.array([metric._compute_score_from_stats(row.tolist()).score for row in sums])


def _weights(count: int, seed: int) -> Counts:
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return np.vstack([np.ones(count, dtype=np.int64), drawn])


def _told(values: NDArray[np.float64]) -> Figure:
    low, high = np.quantile(values[1:], [(1 - COVERED) / 2, (1 + COVERED) / 2]).tolist()
    return float(values[0]), low, high


def plot(file: Path, points: Sequence[tuple[str, str, Figure, Figure]]) -> None:
    """Draw chrF against LAAL with both intervals: policy, path, chrF, LAAL of each."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 5), layout="constrained")
    axes = drawing.subplots()
    paths = sorted({path for _, path, _, _ in points})
    for path in paths:
        some = [each for each in points if each[1] == path]
        score, late = (np.array([each[index] for each in some]).T for index in (2, 3))
        reach = [abs(each[1:] - each[0]) for each in (late, score)]
        axes.errorbar(late[0], score[0], reach[1], reach[0], fmt="o", label=path, alpha=0.8)
        for policy, _, (value, *_), (delay, *_) in some:
            axes.annotate(policy, (delay, value), textcoords="offset points", xytext=(6, 6))
    axes.set_xlabel("LAAL, source words")
    axes.set_ylabel("chrF")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    drawing.savefig(file)
