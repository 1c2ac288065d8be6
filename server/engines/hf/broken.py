"""How a model that must not be served is told: one sentence, which names what is wrong."""

from __future__ import annotations

from server.errors import EngineError

AGAIN = "fetch the model again"
SHOWN = 300  # characters of a value
MOST = 3  # names, before they are counted


def broken(must: str, got: object, then: str = AGAIN) -> EngineError:
    """Return the error of a model that cannot be served.

    must  what of it must be how, as "config must be a JSON object"
    got   what is there instead
    then  what to do
    """
    said = " ".join(str(got).split())[:SHOWN]
    return EngineError(f"{must}, got {said}; {then}")


def some(names: object) -> str:
    """Return the first of some names, and how many more there are."""
    found = sorted(map(str, names))  # type: ignore[call-overload]
    more = len(found) - MOST
    return ", ".join(found[:MOST]) + (f" and {more} more" if more > 0 else "")
