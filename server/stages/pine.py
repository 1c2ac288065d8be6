"""PINE: the model reads documents, or candidates, as a set."""

from __future__ import annotations

from typing import Literal

from server.job import ReadingSpec
from server.stages.over_set import OverSet


class Pine(OverSet):
    """Position-invariant attention over one set (arXiv 2407.01100).

    explain  whether the reply's note says how important each document was to what follows them:
             mean attention per document token over layers, heads and tokens, positions left out
    """

    stage: Literal["pine"] = "pine"
    explain: bool = False

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading that the model reads with."""
        return ReadingSpec(self.stage, (("explain", self.explain),), cut="set")
