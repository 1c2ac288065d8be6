"""Turns of a chat without end: the sequence of the turn before becomes the next.

LM-Infinite forgets what lies between the first tokens and the recent ones, so a chat may go on for
ever; but to read a turn from the beginning takes ever longer. Here only what is new is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from server.job import ReadingSpec, Work
from server.prompt import FillPrompt, Prompt, TextPrompt
from server.sessions.pool import Kept

ALIKE = 0.5  # share of a sequence that a prompt must begin with to become of it
SLACK = 1024  # tokens by which an answer may be written otherwise in the next prompt, the window's
# at most: a template that leaves out an answer's thoughts takes back as many
KNOWN = frozenset({"first", "window", "cap"})  # numbers under which each token is read once for all


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt that may go on where a sequence is."""

    told: ClassVar[bool] = False  # the usage says how much was read before

    prompt: Prompt
    reading: ReadingSpec

    @classmethod
    def of(cls, work: Work) -> Turn | None:
        """Return the turn that is asked, or None for other work.

        Under numbers that are not known here, what is read of a token may depend on what comes
        behind it: then a sequence is no beginning of another.
        """
        reading = work.reading
        if reading is None or reading.name != "lm-infinite":
            return None
        [prompt] = work.prompts
        filled = isinstance(prompt, TextPrompt) and prompt.suffix is not None
        if isinstance(prompt, FillPrompt) or filled or dict(reading.numbers).keys() - KNOWN:
            return None
        slack = min(SLACK, dict(reading.numbers).get("window", SLACK))
        return cls(prompt, replace(reading, numbers=(*reading.numbers, ("slack", slack))))

    async def found(self, own: Sequence[Kept]) -> Kept | None:
        """Return the sequence that has read most of what the prompt begins with.

        One that has read much else stays what it is, since its own next turn may come.
        """
        best, most = None, 0
        for kept in own:
            reusable = await kept.session.reusable(self.prompt)
            if reusable > most and reusable >= ALIKE * kept.session.length:
                best, most = kept, reusable
        return best
