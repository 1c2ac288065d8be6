"""PINE: the model reads documents, or candidates, as a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from server.errors import PlanError
from server.job import Job, ReadingSpec, Reply
from server.stages.base import Claim, Level, Need, Proceed, Stage, asking
from server.text.delimiters import cut

Delimiter = Annotated[str, Field(min_length=1, max_length=64)]


class Pine(Stage):
    """Position-invariant attention over one set (arXiv 2407.01100).

    delimiters  opening and closing text around each document in the prompt, or None if the set is
                already marked (`documents`, or content parts with a `group`)
    explain     whether the reply's note says how important each document was to what follows them:
                mean attention per document token over layers, heads and tokens, positions left out

    Candidates are labelled on their canonical order, so one call is the same in every order. What
    is left is a bias towards a label; `swap` outside averages it out.
    """

    level: ClassVar[Level] = Level.READING
    needs: ClassVar[frozenset[Need]] = frozenset({"attention", "set"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"positions", "visibility"})
    order_free: ClassVar[bool] = True

    stage: Literal["pine"] = "pine"
    delimiters: tuple[Delimiter, Delimiter] | None = None
    explain: bool = False

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading that the model reads with."""
        return ReadingSpec(self.stage, (("explain", self.explain),), cut="set")

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
                f"stage 'pine' must have one set of documents in a prompt, got {most}; put the "
                "documents next to each other, in one group",
                param="documents",
            )
        return job

    def _check_delimiters(self) -> None:
        if self.delimiters is not None:
            raise PlanError(
                "stage 'pine' field 'delimiters' cannot be used with candidates, which are a set "
                f"already, got {list(self.delimiters)}; leave it out",
                param="stages",
            )

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed once, read through PINE."""
        job = self.prepare(job).but(reading=self.reading)
        reply = await proceed(job)
        if job.ballot is None:
            return reply
        return replace(reply, notes=_in_callers_order(reply.notes, job.ballot.slots))


def _in_callers_order(notes: Mapping[str, Any], order: tuple[int, ...]) -> Mapping[str, Any]:
    """Return the notes with what the reading says of slots said of candidates."""
    if "pine" not in notes:
        return notes
    note = dict(notes["pine"])
    note["canonical_order"] = [order[slot] for slot in note["canonical_order"]]
    if "importance" in note:
        by_candidate = sorted(zip(order, note["importance"], strict=True))
        note["importance"] = [importance for _, importance in by_candidate]
    return {**notes, "pine": note}
