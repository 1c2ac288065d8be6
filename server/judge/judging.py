"""One judge request, from body to judgement."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from portia.probability import Fit, restored
from server.engines.base import Engine
from server.errand import Errand
from server.job import Job
from server.judge.calibration import Calibration
from server.judge.call import asked
from server.judge.decision import Decision, fit_key, verdict_of, warnings
from server.judge.judgement import judgement
from server.judge.ladder import climb
from server.judge.template import untold
from server.judge.ties import learn_ties
from server.judge.wire import JudgeBody
from server.stages.average import Average
from server.stages.base import Level, ballot_of, case_of
from server.stages.swap import Swap


@dataclass(frozen=True, slots=True)
class Judging:
    """A judge request that can run."""

    errand: Errand[JudgeBody]

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
        stages       None = see `default_stages`
        calibration  the store of slot biases, which the request may use and teach
        """

        def ready(job: Job) -> Job:
            ballot = body.suited(ballot_of(job), engine.info)
            return job.but(case=replace(case_of(job), ballot=ballot, calibration=calibration))

        wanted = default_stages(engine) if stages is None else stages
        errand = Errand.of(body, engine, name, wanted, ready)
        body.check_calls(errand.plan, errand.job)
        return cls(errand)

    async def check(self, engine: Engine) -> None:
        """Refuse what the engine cannot be asked, before the request takes a place (PlanError)."""
        plan, job = self.errand.plan, self.errand.job
        if all(stage.level is not Level.RANKING for stage in plan.stages):  # it asks about fewer
            job = plan.asked(job)
            await engine.check(asked(job, ballot_of(job), engine))

    async def run(self, engine: Engine) -> dict[str, Any]:
        """Ask the engine, and return the body of the reply."""
        errand = self.errand
        case, body = case_of(errand.job), errand.body
        reply = await climb(errand.plan, engine, body.most_calls)(errand.job)
        await learn_ties(case, (*reply.calls, *reply.probes))
        fit = await self.fit()
        verdict = reply.verdict or verdict_of(reply, case.ballot)
        decision = Decision.of(verdict, fit, body.min_probability)
        said = (*body.warnings, *untold(case.ballot), *warnings(case.ballot, reply, decision))
        return judgement(errand.head, case.ballot, errand.plan, reply, decision, said)

    @property
    def fit_key(self) -> str:
        """Return under which key a fit of such judgements is kept."""
        return fit_key(case_of(self.errand.job), self.errand.plan.wire())

    async def fit(self) -> Fit | None:
        """Return the fit of such judgements, or None where none is kept."""
        store = case_of(self.errand.job).calibration
        if store is None:
            return None
        kept = await asyncio.to_thread(store.fit, self.fit_key)
        return None if kept is None else restored(kept)


def default_stages(engine: Engine) -> list[dict[str, Any]]:
    """Return what decides, whatever the order, and takes nothing from what the model can do.

    All orders, and one decision of their labels' probabilities; where the engine tells none, all
    orders, and a winner if they agree.
    """
    return [{"stage": Average().stage if "logprobs" in engine.offers else Swap().stage}]
