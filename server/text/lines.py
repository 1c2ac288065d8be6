"""Where an editor's completion ends by its lines: at a shallower one, or when time is over."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

LINE_END = re.compile(r"[\r\n]")
BLANK = re.compile(r"[\r\n \t]*")


class LineStop:
    """The text of one answer, piece by piece, up to where its lines end it.

    indent   spaces and tabs that each new line must begin with, blank ones apart: one with fewer
             is not shown, nor what follows; 0 = none
    seconds  after the first piece; then the text ends where a line does; None = no matter when
    stopped  whether it has ended
    """

    def __init__(
        self,
        indent: int = 0,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stopped = False
        self._indent = indent
        self._seconds = seconds
        self._clock = clock
        self._begun: float | None = None
        self._held = ""  # the end of a line, and blanks behind it

    def feed(self, text: str) -> str:
        """Return what may be shown after this text."""
        if not self._indent and self._seconds is None:
            return text
        if self._begun is None:
            self._begun = self._clock()
        rest, self._held, shown = self._held + text, "", ""
        while rest and not self.stopped:
            end = LINE_END.search(rest)
            if end is None:
                return shown + rest
            shown, rest = shown + rest[: end.start()], rest[end.start() :]
            blank = self._blank(rest)
            if len(blank) == len(rest) and not self.stopped:
                self._held = rest
                break
            if not self.stopped:
                shown, rest = shown + blank, rest[len(blank) :]
        return shown

    def end(self) -> str:
        """Return what was held back: nothing more can come."""
        held, self._held = self._held, ""
        return held

    def _blank(self, text: str) -> str:
        r"""Return the ends of lines and the indentation that a text begins with; it may stop here.

        >>> LineStop(indent=4)._blank("\n\n  x")  # two columns: it has stopped
        """
        found = BLANK.match(text)
        assert found is not None, "it matches nothing too"
        blank = found[0]
        columns = len(blank) - 1 - max(blank.rfind("\n"), blank.rfind("\r"))
        shallow = len(blank) < len(text) and columns < self._indent
        self.stopped = shallow or self._late
        return blank

    @property
    def _late(self) -> bool:
        if self._seconds is None or self._begun is None:
            return False
        return self._clock() - self._begun > self._seconds
