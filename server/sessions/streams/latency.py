"""How late a text is that is written while its source is read: AL, LAAL, length ratio."""

from __future__ import annotations

from collections.abc import Sequence


def lagging(read: Sequence[int], source: int, reference: int | None = None) -> float:
    """Return how many words a text is behind one that is spoken as fast as its source.

    AL (Ma et al. 2019, arXiv 1810.08398, eq. 8): the mean over words t up to the first one that
    is written when all is read, of `read[t] - t / gamma`, where `gamma = written / source`. LAAL
    (Papi et al. 2022, arXiv 2206.05807) takes the longer of `written` and `reference`, so that
    nobody gains by talk.

    read       source words that had been read when each word was written
    source     words
    reference  words of the reference (LAAL), or None (AL)
    returns    source words
    """
    if not read or not source:
        return float(source)  # nothing is as late as everything
    gamma = max(len(read), reference or 0) / source
    last = next((number for number, each in enumerate(read) if each >= source), len(read) - 1)
    return sum(read[t] - t / gamma for t in range(last + 1)) / (last + 1)


def latency(read: Sequence[int], source: int, reference: int | None = None) -> dict[str, float]:
    """Return what a stream tells of its lateness.

    reference  words of a reference; None = as many as the source has, since a live text has none

    `length_ratio` is of written words to those of the reference: whoever talks more is late less.
    """
    expected = source if reference is None else reference
    return {
        "average_lagging": lagging(read, source),
        "length_adaptive_average_lagging": lagging(read, source, expected),
        "length_ratio": len(read) / expected if expected else 0.0,
    }
