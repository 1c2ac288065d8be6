"""Parallel: each document is read by itself behind the prefix, and what follows sees them all."""

from __future__ import annotations

from typing import Literal

from server.job import ReadingSpec
from server.stages.over_set import OverSet


class Parallel(OverSet):
    """Parallel encoding of one set (PCW, arXiv 2212.10947).

    No document sees another, and all stand at one place. What is cached of a document serves in any
    set behind the same prefix.
    """

    stage: Literal["parallel"] = "parallel"

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading that the model reads with."""
        return ReadingSpec(self.stage, cut="set")
