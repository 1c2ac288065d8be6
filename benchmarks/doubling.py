"""What a caller's text costs when it is twice as long: every function that goes through one.

    python benchmarks/doubling.py [--size 100000]

The exponent is 1 where time grows as the text does, and 2 where a long one freezes a server. Texts
are the nasty ones: a pattern, again and again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from math import log2
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parent.parent))

from rich.console import Console
from rich.table import Table

from benchmarks._harness import arguments, medians, timed
from portia.split import units
from server.errors import PlanError
from server.judge.ballot import Ballot, Candidate
from server.judge.render import render
from server.prompt import Part, TextPrompt
from server.protocol.chat import ChatBody
from server.protocol.common import parse
from server.text.delimiters import cut

NOTABLE = 0.02  # seconds, below which an exponent is noise
STEEP = 1.5
PATTERNS = (
    *("`", "``` ", "```\n", "~", "\n", " \n", " ", ".", "a. ", ".\n", "- ", "* \t", "- a\n", "1. "),
    *("| a |\n", "(", '"', "{", "{a", "<d>", "Answer A: ", "Question: x\n", "\u3002"),
)
Text = Callable[[str], object]


def _cut(text: str) -> object:
    return cut(TextPrompt((Part(text),)), ("<d>", "</d>"), "pine")


def _judged(question: str, answer: str, template: str = "auto") -> object:
    known = "chat-strict" if template == "auto" else template
    candidates = (Candidate("a", answer, 0), Candidate("b", "no", 1))
    return render(Ballot(question, candidates, (0, 1), template=known))


def _lines(text: str) -> str:
    """Return lines that are all different and as long as those of a prompt."""
    return "".join(f"some line {number}\n" for number in range(len(text) // 16))


def _body(name: str, item: object) -> Text:
    def read(text: str) -> object:
        return parse(json.dumps({name: [item] * (len(text) // 16)}).encode(), ChatBody)

    return read


_PART = {"type": "text", "text": "a"}
FUNCTIONS: dict[str, tuple[Text, tuple[str, ...]]] = {
    "units of an answer": (units, PATTERNS),
    "documents between delimiters": (_cut, ("<d>a</d>", "<d>a</d> ", "<d>", "</d>", "<d>a")),
    "an answer to be judged": (partial(_judged, "Why?"), PATTERNS),
    "a question": (lambda text: _judged(text, "yes"), PATTERNS),
    "a template": (lambda text: _judged("Why?", "yes", text + "{candidates}{task}"), PATTERNS),
    "a template of many lines": (
        lambda text: _judged("Why?", _lines(text), _lines(text).upper() + "{candidates}{task}"),
        ("x",),
    ),
    "messages without a role": (_body("messages", {"content": 1}), ("x",)),
    "parts of a message": (
        lambda text: _body("messages", {"role": "user", "content": [_PART] * 1000})(text[::1000]),
        ("x",),
    ),
    "documents that are none": (_body("documents", 7), ("x",)),
}


def main() -> None:
    """Print how every function's time grows, the steepest first."""
    options = arguments(__doc__ or "", _more)
    size = 10_000 if options.quick else options.size
    rows = [
        (name, pattern, *_grown(function, pattern, size, options.runs))
        for name, (function, patterns) in FUNCTIONS.items()
        for pattern in patterns
    ]
    table = Table(title=f"{size:,} characters, and twice as many")
    for column in ("what reads it", "text", "seconds", "twice as long", "exponent"):
        table.add_column(column)
    for name, pattern, once, twice in sorted(rows, key=lambda row: -row[3]):
        exponent = f"{log2(twice / once):.2f}" if twice > NOTABLE else ""
        steep = " <-" if exponent and float(exponent) > STEEP else ""
        table.add_row(name, repr(pattern), f"{once:.3f}", f"{twice:.3f}", exponent + steep)
    Console().print(table)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=100_000, help="characters")
    parser.add_argument("--runs", type=int, default=3)


def _grown(function: Text, pattern: str, size: int, runs: int) -> tuple[float, float]:
    """Return the seconds that a text takes, and one twice as long."""

    def run(length: int) -> float:
        text = pattern * (length // len(pattern))
        return timed(partial(_asked, function, text))

    found = medians(runs, {"once": partial(run, size), "twice": partial(run, 2 * size)})
    return found["once"], found["twice"]


def _asked(function: Text, text: str) -> None:
    try:
        function(text)
    except PlanError:  # refused: that takes time too
        return


if __name__ == "__main__":
    main()
