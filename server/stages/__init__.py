"""The stages there are: one technique, one file, one class."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated

from pydantic import Field, TypeAdapter

from server.stages.average import Average
from server.stages.base import Stage
from server.stages.calibrate import Calibrate
from server.stages.group_positions import GroupPositions
from server.stages.lm_infinite import LmInfinite
from server.stages.pairwise import Pairwise
from server.stages.parallel import Parallel
from server.stages.pie import Pie
from server.stages.pine import Pine
from server.stages.portia import Portia
from server.stages.rerank import Rerank
from server.stages.sample import Sample
from server.stages.swap import Swap
from server.stages.synthesize import Synthesize

ALL = (
    Average,
    Calibrate,
    GroupPositions,
    LmInfinite,
    Pairwise,
    Parallel,
    Pie,
    Pine,
    Portia,
    Rerank,
    Sample,
    Swap,
    Synthesize,
)
AnyStage = Annotated[
    Average
    | Calibrate
    | GroupPositions
    | LmInfinite
    | Pairwise
    | Parallel
    | Pie
    | Pine
    | Portia
    | Rerank
    | Sample
    | Swap
    | Synthesize,
    Field(discriminator="stage"),
]

EXAMPLE = '[{"stage": "pine"}]'  # for messages
KNOWN = MappingProxyType({str(each.model_fields["stage"].default): each for each in ALL})
PARSER: TypeAdapter[Stage] = TypeAdapter(AnyStage)
