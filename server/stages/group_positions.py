"""Group positions: a target is written while its source comes (arXiv 2505.16983)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from server.errors import PlanError
from server.job import Job, ReadingSpec, Reply
from server.stages.base import Claim, Level, Need, Proceed, Stage


class GroupPositions(Stage):
    """Source and target count their own positions, so neither is read again for the other.

    policy     wait-k = read k pieces, then one for each word that is written; local-agreement =
               write what two guesses in a row agree on; all = read everything first
    k          pieces that wait-k is behind; 5 = the default, 3 = sooner and a little worse
    early      whether `k` may be 1: then the model writes before it has seen the task
    every      pieces that local agreement reads between two guesses
    hold       while the source is open, an end of a sentence means to read on
    offset     least position of the target's first token; it is raised as the source grows
    trained    the model was trained with that offset: it stays, whatever the source's length
    segmenter  by which the source is cut into pieces
    """

    level: ClassVar[Level] = Level.READING
    needs: ClassVar[frozenset[Need]] = frozenset({"attention", "stream"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"cache", "positions", "visibility"})

    stage: Literal["group-positions"] = "group-positions"
    policy: Literal["wait-k", "local-agreement", "all"] = "wait-k"
    k: int = Field(5, ge=1, le=4096)
    early: bool = False
    every: int = Field(2, ge=1, le=4096)
    hold: bool = True
    offset: int | None = Field(None, ge=0, le=2**24)
    trained: bool = False
    segmenter: Literal["words", "characters", "sentences"] = "words"

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading."""
        numbers = ("offset", self.offset or 0), ("trained", self.trained)
        return ReadingSpec(self.stage, numbers, "source-target")

    def refuse(self) -> None:
        """Refuse numbers that do nothing, or harm (PlanError)."""
        own = {"k": "wait-k", "early": "wait-k", "every": "local-agreement"}
        for name, policy in own.items():
            if name in self.model_fields_set and self.policy != policy:
                raise self._refusal(name, f"go with policy {policy!r}", repr(self.policy))
        if "hold" in self.model_fields_set and self.policy == "all":
            raise self._refusal("hold", "go with a policy that writes early", "'all'")
        if self.policy == "wait-k" and self.k == 1 and not self.early:
            raise self._refusal("k", "be at least 2, or come with early: true", "1")
        if self.trained and self.offset is None:
            raise self._refusal("trained", "come with the offset of the training", "none")
        if self.offset == 0 and not self.trained:
            raise self._refusal("offset", "be at least 1, or come with trained: true", "0")

    def _refusal(self, field: str, rule: str, got: str) -> PlanError:
        return PlanError(
            f"stage {self.stage!r} field {field!r} must {rule}, got {got}; correct it",
            param="stages",
        )

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed: the stream reads so already."""
        return await proceed(job.but(reading=self.reading))
