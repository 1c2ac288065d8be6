"""From bytes to text as they come: never half a character, never part of a stop string."""

from __future__ import annotations

import codecs


class TextStream:
    """The text of one answer, piece by piece.

    stops    strings that end the answer; they are not part of it
    stopped  the stop string that was met, or None

    The text does not depend on how the bytes are cut into pieces: of several stop strings the one
    that is complete first counts, of those the longest.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self.stopped: str | None = None
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes) -> str:
        """Return what may be shown after these bytes."""
        return self._release(self._decoder.decode(data))

    def end(self) -> str:
        """Return what was held back: nothing more can come."""
        text = self._release(self._decoder.decode(b"", final=True))
        if self.stopped is None:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if not self._stops:
            return text
        if self.stopped is not None:
            return ""
        self._held += text
        found = [
            (index + len(stop), index, stop)
            for stop in self._stops
            if (index := self._held.find(stop)) >= 0
        ]
        if found:
            _, index, self.stopped = min(found)
        else:
            index = len(self._held) - self._beginning()
        shown, self._held = self._held[:index], self._held[index:]
        return shown

    def _beginning(self) -> int:
        """Return the length of the longest end of the held text that may begin a stop string."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
