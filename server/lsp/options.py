"""What an editor or the command line may choose, and how a mistake in it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.alias_generators import to_camel

from server.protocol.common import shown

SECTION = "evenhand"


class Options(BaseModel):
    """How completions are asked for; on the wire in camel case, as editors write settings.

    url                 of the server, with or without /v1
    api_key             its bearer key
    model               name of its model; None = the first it lists
    enabled             false = nothing is offered
    multiline           false = never more than the rest of a line
    max_tokens          of one completion
    context_characters  of text around the cursor, for a server that does not keep the document
    """

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, frozen=True, extra="ignore"
    )

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] = "http://127.0.0.1:8000"
    api_key: SecretStr | None = None
    model: str | None = None
    enabled: bool = True
    multiline: bool = True
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 128
    context_characters: Annotated[int, Field(ge=200, le=1_000_000)] = 12_000

    @property
    def base(self) -> str:
        """Return the address that paths as /v1/models follow."""
        return self.url.rstrip("/").removesuffix("/v1")


def changed(options: Options, given: object) -> tuple[Options, list[str]]:
    """Return options with what an editor sent, and a sentence for each that cannot be.

    given  the object of `evenhand` settings, or one that holds it; null and "" = not given
    """
    if not isinstance(given, Mapping):
        return options, []
    inner = given.get(SECTION)
    found = _given(inner if isinstance(inner, Mapping) else given)
    known = options.model_dump()
    complaints: list[str] = []
    for name, value in found.items():
        try:
            Options.model_validate({name: value})
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            told = "another value" if name == "api_key" else shown(value)
            complaints.append(
                f"setting {SECTION}.{to_camel(name)} must be usable ({reason}), got {told}; "
                "it is as it was"
            )
        else:
            known[name] = value
    return Options.model_validate(known), complaints


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are ours, by field."""
    fields = Options.model_fields
    return {
        name: settings[to_camel(name)]
        for name in fields
        if settings.get(to_camel(name)) not in (None, "")
    }
