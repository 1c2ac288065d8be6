"""One judge request, from body to judgement, wherever it came from."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from server.engines.base import Engine
from server.job import Job
from server.judge.calibration import Calibration
from server.judge.judgement import judgement
from server.judge.ladder import climb
from server.judge.wire import JudgeBody
from server.pipeline import Plan, plan
from server.protocol.replies import Head, fingerprint


@dataclass(frozen=True, slots=True)
class Judging:
    """A judge request that can run: what was asked, as a job, and the plan for it."""

    body: JudgeBody
    job: Job
    plan: Plan
    head: Head

    @classmethod
    def of(
        cls,
        body: JudgeBody,
        engine: Engine,
        name: str,
        stages: list[dict[str, Any]] | None,
        calibration: Calibration | None = None,
    ) -> Judging:
        """Check a request; nothing has run when this raises PlanError.

        name         the served name of the model
        stages       None = what makes a verdict independent of the order at the least cost
        calibration  the store of slot biases, which the request may use and teach
        """
        body.refuse()
        made_by = fingerprint(engine.info)
        job = body.job(name, f"judge-{secrets.token_hex(12)}")
        job = job.but(fingerprint=made_by, calibration=calibration)
        planned = plan(default_stages(engine) if stages is None else stages, engine=engine, job=job)
        body.check_calls(planned, job)
        return cls(body, job, planned, Head(job.id, int(time.time()), name, made_by))

    async def run(self, engine: Engine) -> dict[str, Any]:
        """Ask the engine, and return the body of the reply."""
        assert self.job.ballot is not None, "a judge's job has a ballot"
        reply = await climb(self.plan, engine, self.body.most_calls)(self.job)
        return judgement(self.head, self.job.ballot, self.plan, reply, self.body.warnings)


def default_stages(engine: Engine) -> list[dict[str, Any]]:
    """Return what makes a verdict independent of the order at the least cost."""
    return [{"stage": "pine" if "attention" in engine.offers else "swap"}]
