"""Stages as they are written in a request, read one by one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping

from pydantic import ValidationError

from server.errors import PlanError
from server.stages import EXAMPLE, KNOWN, PARSER
from server.stages.base import Stage

MOST_STAGES = 8
MOST_FIELDS = 64  # of a stage
MOST_SHOWN = 60  # characters of a value in a message


def parse(stages: object) -> tuple[Stage, ...]:
    """Return the stages of the wire's list (PlanError)."""
    if not isinstance(stages, list | tuple):
        raise refusal(f"stages must be a list, got {_shown(stages)}; write {EXAMPLE}")
    if len(stages) > MOST_STAGES:
        raise refusal(
            f"stages must number at most {MOST_STAGES}, got {len(stages)}; leave some out"
        )
    return tuple(_parse(stage, index) for index, stage in enumerate(stages))


def refusal(message: str) -> PlanError:
    """Return the error of a list of stages."""
    return PlanError(message, param="stages")


def _parse(stage: object, index: int) -> Stage:
    """Return one stage from its wire form."""
    if not isinstance(stage, Mapping):
        raise refusal(
            f"stages[{index}] must be an object, got {_shown(stage)}; write one as in {EXAMPLE}"
        )
    if len(stage) > MOST_FIELDS:
        raise refusal(
            f"stages[{index}] must have at most {MOST_FIELDS} fields, got {len(stage)}; remove some"
        )
    name, known = stage.get("stage"), ", ".join(KNOWN)
    if not isinstance(name, str) or name not in KNOWN:
        near = difflib.get_close_matches(str(name)[:MOST_SHOWN], KNOWN, n=1)
        advice = f"did you mean {near[0]!r}?" if near else "name one of them in its field 'stage'"
        raise refusal(f"stages[{index}] must be one of {known}, got {_shown(name)}; {advice}")
    try:
        return PARSER.validate_python(dict(stage))
    except ValidationError as error:
        raise _field_refusal(name, error) from None


def _field_refusal(name: str, error: ValidationError) -> PlanError:
    """Return the first fault of a stage's fields as one sentence."""
    fault = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(step) for step in fault["loc"][1:])
    where, got = f"stage {name!r} field {field!r}", _shown(fault["input"])
    if fault["type"] == "extra_forbidden":
        fields = [each for each in KNOWN[name].model_fields if each != "stage"]
        takes = f"one of {', '.join(fields)}" if fields else "left out, since the stage takes none"
        return refusal(f"{where} must be {takes}, got {got}; remove or rename it")
    rule = fault["msg"][0].lower() + fault["msg"][1:]
    rule = rule.removeprefix("input should be ").removeprefix("input should ")
    return refusal(f"{where} must be {rule}, got {got}; correct it")


def _shown(value: object) -> str:
    """Return a value for a message, cut to `MOST_SHOWN` characters."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
