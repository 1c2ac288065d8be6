"""Bodies: how JSON becomes a wire type, and how its faults become one sentence."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from server.errors import PlanError

MOST_ERRORS = 10
MOST_SHOWN = 200

B = TypeVar("B", bound="Body")
T = TypeVar("T")

# a list of which the first fault is told: a body may hold a million
Items = Annotated[list[T], Field(fail_fast=True)]


class Body(BaseModel):
    """A request body: frozen, exact types, unknown fields kept aside as warnings."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )

    @property
    def warnings(self) -> list[str]:
        """Return one sentence per field that this server does not know."""
        return [
            f"field {name[:MOST_SHOWN]!r} is not known and was ignored" for name in self.unknown
        ]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Return the names of the fields that this server does not know."""
        return tuple(self.model_extra or ())[:MOST_ERRORS]


def parse(data: bytes, kind: type[B], *, strict: bool = False) -> B:
    """Read a body.

    strict  refuse unknown fields
    raises  PlanError with one sentence that names the field, the value and what to do
    """
    try:
        value = from_json(data.removeprefix(BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        raise PlanError(
            f"request body must be JSON in UTF-8, got a fault: {error}; correct it and send again"
        ) from None
    if not isinstance(value, dict):
        raise PlanError(f"request body must be a JSON object, got {shown(value)}; send {{...}}")
    try:
        body = kind.model_validate(value)
    except ValidationError as error:
        raise fault(error.errors(include_url=False, include_context=False)) from None
    if strict and body.unknown:
        raise PlanError(
            f"fields must be known to a strict server, got {body.unknown[0][:MOST_SHOWN]!r}; "
            "remove it",
            param=body.unknown[0][:MOST_SHOWN],
        )
    return body


def fault(errors: Sequence[ErrorDetails]) -> PlanError:
    """Return what is wrong with a body, at most `MOST_ERRORS` faults in one sentence."""
    parts = list(dict.fromkeys(_one(error) for error in errors))
    more = f" (and {len(parts) - MOST_ERRORS} more)" if len(parts) > MOST_ERRORS else ""
    pointer = _pointer(errors[0])
    return PlanError("; also ".join(parts[:MOST_ERRORS]) + more, param=pointer or None)


def _one(error: ErrorDetails) -> str:
    """Return one fault; a validator's own sentence is used as it is."""
    pointer, message = _pointer(error) or "body", error["msg"]
    if error["type"] == "value_error":
        return message.removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{pointer} must be given, got none; add the field"
    if error["type"] == "extra_forbidden":
        return f"{pointer} cannot be given, got {shown(error['input'])}; remove the field"
    rule = message.partition(" after validation")[0].replace("a valid ", "a ")
    rule = rule.replace("a integer", "an integer")
    rule = re.sub(r"^\w+ should ", "", rule[0].lower() + rule[1:])
    rule = rule if rule.startswith(("be ", "have ")) else f"be {rule}"
    return f"{pointer} must {rule}, got {shown(error['input'])}; correct it"


def _pointer(error: ErrorDetails) -> str:
    """Return where the fault is, as `messages.0.content`; names of union members are left out."""
    kept = [str(step) for step in error["loc"] if isinstance(step, int) or step.isidentifier()]
    return ".".join(kept)[:MOST_SHOWN]


def shown(value: object) -> str:
    """Return a value for a message as it stands in JSON, at most `MOST_SHOWN` characters."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value[:MOST_SHOWN])
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number of more than 18 digits"
    return str(value)[:MOST_SHOWN]
