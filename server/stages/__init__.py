"""The stages there are: one technique, one file, one class."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated

from pydantic import Field, TypeAdapter

from server.stages.base import Stage
from server.stages.pine import Pine
from server.stages.swap import Swap

AnyStage = Annotated[Pine | Swap, Field(discriminator="stage")]

KNOWN = MappingProxyType({str(each.model_fields["stage"].default): each for each in (Pine, Swap)})
PARSER: TypeAdapter[Stage] = TypeAdapter(AnyStage)
