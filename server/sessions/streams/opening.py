"""From the stages of a request to a stream."""

from __future__ import annotations

from server.engines.base import Engine, OpensGroups
from server.errors import PlanError
from server.job import Sampling
from server.prompt import Prompt
from server.sessions.streams.policy import Agreement, Policy, Wait
from server.sessions.streams.stream import Asked, Stream
from server.stages.base import Stage
from server.stages.group_positions import GroupPositions


def stage_of(stages: tuple[Stage, ...]) -> GroupPositions:
    """Return the stage by which a stream is read; none listed = its defaults (PlanError)."""
    if not stages:
        return GroupPositions()
    if len(stages) > 1 or not isinstance(stages[0], GroupPositions):
        names = ", ".join(stage.stage for stage in stages)
        raise PlanError(
            f"stages of a stream must be 'group-positions' alone, got {names}; leave the others "
            "out",
            param="stages",
        )
    stages[0].refuse()
    return stages[0]


async def open_stream(
    engine: Engine, stage: GroupPositions, prompt: Prompt, sampling: Sampling, *, idle: float
) -> Stream:
    """Return a stream that has read nothing yet.

    idle    seconds without more of the source, after which it ends
    raises  PlanError    if the model cannot be read so, or the request cannot be answered
            EngineError  if the engine has stopped
    """
    if not isinstance(engine, OpensGroups):
        raise PlanError(
            "model must be one that is loaded here to be streamed to, got one on another server; "
            "serve it here",
            param="model",
        )
    if stage.policy == "local-agreement" and sampling.temperature != 0:
        raise PlanError(
            "temperature must be 0 with policy 'local-agreement', since guesses that are drawn "
            f"agree by chance, got {sampling.temperature}; set it to 0",
            param="temperature",
        )
    groups = await engine.open_groups(stage.reading, prompt, sampling)
    asked = Asked(_policy(stage), stage.segmenter, sampling.max_tokens, sampling.stop, idle)
    return Stream(groups, asked)


def _policy(stage: GroupPositions) -> Policy:
    if stage.policy == "local-agreement":
        return Agreement(stage.every, stage.hold)
    return Wait(None if stage.policy == "all" else stage.k, stage.hold)
