"""One request that can run, wherever it came from: from a body to a job and its plan."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from server.engines.base import Engine
from server.job import Job
from server.pipeline import Plan, plan
from server.protocol.replies import Head, fingerprint


class Asked(Protocol):
    """A body that asks for work.

    prefix  of the ids of its replies
    """

    prefix: ClassVar[str]

    def refuse(self) -> None:
        """Raise PlanError for what cannot be done."""
        ...

    def job(self, head: Head) -> Job:
        """Return what was asked as a job (PlanError)."""
        ...


B = TypeVar("B", bound=Asked)


@dataclass(frozen=True, slots=True)
class Errand(Generic[B]):
    """A request that can run: what was asked, as a job, the plan for it, and how replies begin."""

    body: B
    job: Job
    plan: Plan
    head: Head

    @classmethod
    def of(
        cls, body: B, engine: Engine, name: str, stages: object, ready: Callable[[Job], Job]
    ) -> Errand[B]:
        """Check a request; nothing has run when this raises PlanError.

        name    the served name of the model
        stages  the wire's list, outermost first
        ready   makes the job ready to be planned, or refuses it
        """
        body.refuse()
        head = Head(
            id=f"{body.prefix}-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=name,
            fingerprint=fingerprint(engine.info),
        )
        job = ready(body.job(head))
        return cls(body, job, plan(stages, engine=engine, job=job), head)
