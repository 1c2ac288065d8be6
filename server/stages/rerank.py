"""Rerank: the model reads a set in the order of relevance, which it finds itself."""

from __future__ import annotations

from itertools import chain
from typing import ClassVar, Literal

from server.errors import PlanError
from server.job import Job, ReadingSpec
from server.prompt import ChatPrompt, Parts, Prompt, TextPrompt
from server.stages.as_set import SetStage
from server.stages.base import Claim, Need


class Rerank(SetStage):
    """Documents in the order of their relevance to what follows them (arXiv 2204.07496).

    best  where the most relevant one stands

    A document is as relevant as what follows the set is likely behind it alone. Each is judged by
    itself, so that no order sent changes the order read, in which nothing is taken from what the
    model can do. It costs about one more reading of the documents.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"attention", "documents"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"order", "positions", "visibility"})

    stage: Literal["rerank"] = "rerank"
    best: Literal["first", "last"] = "first"

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading that the model reads with."""
        return ReadingSpec(self.stage, (("last", self.best == "last"),), cut="set")

    def prepare(self, job: Job) -> Job:
        """Cut the documents out (PlanError for candidates, and where nothing follows the set)."""
        if job.ballot is not None:
            raise PlanError(
                f"stage {self.stage!r} must have documents with a question behind them, got "
                "candidates; use 'average'",
                param="stages",
            )
        job = super().prepare(job)
        if any(prompt.sets and not _followed(prompt) for prompt in job.prompts):
            raise PlanError(
                f"stage {self.stage!r} must have a question behind the documents, got documents at "
                "the end; put the question behind them, or use 'average'",
                param="documents",
            )
        return job


def _followed(prompt: Prompt) -> bool:
    """Return whether some text follows a prompt's set: what it is asked for."""
    [found] = prompt.sets
    messages: tuple[Parts, ...] = ()
    if isinstance(prompt, ChatPrompt):
        messages = tuple(message.parts for message in prompt.messages)
    elif isinstance(prompt, TextPrompt):
        messages = (prompt.parts,)
    own = messages[found.message][found.start + len(found.documents) :]
    later = chain(*messages[found.message + 1 :])
    return any(part.text.strip() for part in (*own, *later))
