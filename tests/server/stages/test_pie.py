"""The stage pie: its numbers are a reading; and the stages that there are, all of them known."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from server.engines.hf.edited import Healing
from server.job import ReadingSpec
from server.stages import ALL, PARSER
from server.stages.base import Stage
from server.stages.pie import Pie


def test_its_numbers_are_the_reading() -> None:
    numbers = (("heal_after", 32), ("heal_read", 0.05), ("max_edits", 20), ("exact", False))
    assert Pie().reading == ReadingSpec("pie", numbers)
    assert Healing.of(Pie(heal_after=4, exact=True).reading) == Healing(4, 0.05, 20, exact=True)


@pytest.mark.parametrize(
    "wrong", [{"heal_after": -1}, {"heal_read": 1.1}, {"max_edits": -1}, {"layers": 3}]
)
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PARSER.validate_python({"stage": "pie", **wrong})


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_stage_is_known_by_its_name(kind: type[Stage]) -> None:
    name = kind.model_fields["stage"].default
    assert type(PARSER.validate_python({"stage": name})) is kind
