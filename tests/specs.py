"""Readings as data, for tests."""

from __future__ import annotations

from server.stages.pine import Pine

PINE = Pine().reading
