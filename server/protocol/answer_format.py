"""`response_format`: what form an answer must have, as a grammar for the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher

from server.errors import PlanError
from server.protocol.common import shown

# a model that has nothing to say writes spaces for ever where JSON allows them
SPACES = {"whitespace_pattern": r"[ \t\r\n]{0,16}"}


def grammar(wanted: Mapping[str, Any] | None) -> str | None:
    """Return the grammar of a `response_format`, or None for plain text.

    raises  PlanError  for an unknown type or a missing schema; a schema that cannot be followed is
                       refused by the engine
    """
    kind = "text" if wanted is None else wanted.get("type")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return _of_schema({"type": "object"})
    if kind != "json_schema":
        raise _refusal(
            f"response_format must be of type text, json_object or json_schema, got {shown(kind)}; "
            "send one of these"
        )
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise _refusal(
            f"response_format.json_schema.schema must be an object, got {shown(schema)}; "
            "send the schema there"
        )
    return _of_schema(schema)


def _of_schema(schema: Mapping[str, Any]) -> str:
    wanted = {"x-guidance": SPACES, **schema}
    return str(LLMatcher.grammar_from_json_schema(json.dumps(wanted)))


def _refusal(message: str) -> PlanError:
    return PlanError(message, param="response_format")
