"""What stages that read documents, or candidates, as a set have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from server.errors import PlanError
from server.job import Job, ReadingSpec, Reply
from server.stages.base import Claim, Level, Need, Proceed, Stage, asking
from server.text.delimiters import cut

Delimiter = Annotated[str, Field(min_length=1, max_length=64)]


class SetStage(Stage):
    """A reading of one set, the same in every order of it.

    delimiters  opening and closing text around each document in the prompt, or None if the set is
                already marked (`documents`, or content parts with a `group`)

    Candidates are labelled on their canonical order, so one call is the same in every order. What
    is left is a bias towards a label; `swap` outside averages it out.
    """

    level: ClassVar[Level] = Level.READING
    needs: ClassVar[frozenset[Need]] = frozenset({"attention", "set"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"positions", "visibility"})
    order_free: ClassVar[bool] = True

    delimiters: tuple[Delimiter, Delimiter] | None = None

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading that the model reads with."""
        return ReadingSpec(self.stage, cut="set")

    def prepare(self, job: Job) -> Job:
        """Cut the documents out at the delimiters; make candidates a set, in canonical order.

        raises  PlanError  for a second set
        """
        if job.ballot is not None:
            self._check_delimiters()
            order = job.ballot.order or job.ballot.canonical()
            return asking(job, replace(job.ballot, order=order, as_documents=True))
        if self.delimiters is not None:
            cut_out = partial(cut, delimiters=self.delimiters, stage=self.stage)
            job = job.but(prompts=tuple(map(cut_out, job.prompts)))
        most = max((len(prompt.sets) for prompt in job.prompts), default=0)
        if most > 1:
            raise PlanError(
                f"stage {self.stage!r} must have one set of documents in a prompt, got {most}; put "
                "the documents next to each other, in one group",
                param="documents",
            )
        return job

    def _check_delimiters(self) -> None:
        if self.delimiters is not None:
            raise PlanError(
                f"stage {self.stage!r} field 'delimiters' cannot be used with candidates, which "
                f"are a set already, got {list(self.delimiters)}; leave it out",
                param="stages",
            )

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed once, read so."""
        job = self.prepare(job).but(reading=self.reading)
        reply = await proceed(job)
        if job.ballot is None or self.stage not in reply.notes:
            return reply
        note = _in_callers_order(reply.notes[self.stage], job.ballot.slots)
        return replace(reply, notes={**reply.notes, self.stage: note})


def _in_callers_order(note: Mapping[str, Any], order: tuple[int, ...]) -> Mapping[str, Any]:
    """Return the note with what the reading says of slots said of candidates."""
    told = dict(note)
    told["canonical_order"] = [order[slot] for slot in told["canonical_order"]]
    if "importance" in told:
        by_candidate = sorted(zip(order, told["importance"], strict=True))
        told["importance"] = [importance for _, importance in by_candidate]
    return told
