"""Parallel: the model reads each document, or candidate, by itself."""

from __future__ import annotations

from typing import Literal

from server.stages.as_set import SetStage


class Parallel(SetStage):
    """Parallel encoding of one set (arXiv 2212.10947): no document sees another.

    What follows the set sees them all, each as if it alone stood behind what comes before. The
    cheapest way to read a set, and a document that was read once is at hand in any other set.
    """

    stage: Literal["parallel"] = "parallel"
