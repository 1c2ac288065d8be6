"""The ways to judge that have a name, as stages, outermost first."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

METHODS: Mapping[str, list[dict[str, Any]]] = MappingProxyType(
    {
        "none": [],
        "swap": [{"stage": "swap"}],
        "calibrate": [{"stage": "calibrate"}],
        "portia": [{"stage": "portia"}],
        "pine": [{"stage": "pine"}],
        "average": [{"stage": "average"}],
        "parallel": [{"stage": "parallel"}],
        "swap+pine": [{"stage": "swap"}, {"stage": "pine"}],
    }
)
COMPARED = ("none", "swap", "calibrate", "portia", "pine")  # where nobody says which
