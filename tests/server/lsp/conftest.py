"""A server of completions, and an editor beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from completing import Completing, completing
from editor import Editor, editing


@pytest.fixture
def served() -> Iterator[tuple[Completing, str]]:
    """Yield a server of completions and its address."""
    with completing() as found:
        yield found


@pytest.fixture
def backend(served: tuple[Completing, str]) -> Completing:
    return served[0]


@pytest.fixture
def editor(served: tuple[Completing, str]) -> Iterator[Editor]:
    """Yield an editor that has shaken hands."""
    with editing(served[1]) as found:
        found.initialize()
        yield found
