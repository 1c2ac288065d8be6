"""The pipeline: `plan` says whether the stages can run, `compose` folds them into an onion."""

from server.pipeline.compose import compose
from server.pipeline.plan import MOST_STAGES, Plan, plan

__all__ = ["MOST_STAGES", "Plan", "compose", "plan"]
