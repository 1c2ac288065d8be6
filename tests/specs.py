"""Readings as data, for tests."""

from __future__ import annotations

from server.stages.average import Average
from server.stages.pine import Pine

AVERAGE = Average().reading
PINE = Pine().reading
