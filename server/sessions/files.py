"""What editors work on: one file for each sequence, told by its name or by its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from server.job import ReadingSpec, Work
from server.prompt import FillPrompt, TextPrompt
from server.sessions.pool import Kept
from server.stages.pie import Pie

ALIKE = 0.5  # share of its text that a file must have in common with what a sequence has read
COMPARED = 1 << 16  # characters at each end of a text that are compared


@dataclass(frozen=True, slots=True)
class File:
    """What tells one file from another: its text around the cursor, and its name if it has one."""

    reading: ClassVar[ReadingSpec] = Pie().reading
    told: ClassVar[bool] = True

    text: str
    name: str = ""

    @classmethod
    def of(cls, work: Work) -> File | None:
        """Return what is to be filled in, or None for other work."""
        if work.reading is not None:
            return None
        [prompt] = work.prompts
        if isinstance(prompt, FillPrompt):
            return cls(prompt.prefix + prompt.begun + prompt.suffix, prompt.name)
        if isinstance(prompt, TextPrompt) and prompt.suffix is not None:
            return cls("".join(part.text for part in prompt.parts) + prompt.suffix)
        return None

    async def found(self, own: Sequence[Kept]) -> Kept | None:
        """Return the sequence of this file, another that may become it, or None."""
        files = {id(kept): kept.about for kept in own if isinstance(kept.about, File)}
        alike = {kept: self.likeness(file) for kept, file in files.items()}
        best = max(own, key=lambda kept: alike[id(kept)], default=None)
        if best is not None and alike[id(best)] >= ALIKE:
            return best
        # one that has read other files alone, to be warm
        warm = (kept for kept in own if not files[id(kept)].text and not kept.busy)
        return next(warm, None) if self.text else None

    def likeness(self, other: File) -> float:
        """Return the share of the text that both have in common at its ends, 0 to 1."""
        if self.name and other.name:
            return float(self.name == other.name)
        longest = min(max(len(self.text), len(other.text)), 2 * COMPARED)
        if not longest:
            return 1.0
        heads = self.text[:COMPARED], other.text[:COMPARED]
        tails = self.text[-COMPARED:][::-1], other.text[-COMPARED:][::-1]
        return min((_common(*heads) + _common(*tails)) / longest, 1.0)


def _common(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
