"""The ladder: ask in ever more careful ways until the orders agree (spec portia-and-judge 1, 3).

Without input or output: whoever climbs makes the calls. Stopping at the first agreement is a
selection effect, so the rung that settled it is part of the outcome.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from portia.verdict import Method, Verdict, Vote, decide

SETTLED = ("consistent", "tie")


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to ask.

    calls       model calls that it takes
    order_free  True = no order of the candidates can change its votes (PINE)
    """

    name: str
    calls: int
    order_free: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the climb ended.

    verdict  of the last rung that was asked
    rung     the one that settled it, or None: its status is then neither consistent nor tie
    tried    all rungs asked, in their order
    stopped  True = the calls left did not suffice for the next rung
    """

    verdict: Verdict
    rung: Rung | None
    tried: tuple[Rung, ...]
    stopped: bool


def climb(
    rungs: Sequence[Rung],
    texts: Sequence[str],
    most_calls: int,
    method: Method | None = None,
    tie_margin: float | None = None,
) -> Generator[Rung, Sequence[Vote], Outcome]:
    """Yield the rung to ask, expect its votes, and return at the first one whose orders agree.

    texts       the candidates' texts, by the indices in the votes
    most_calls  of all rungs together
    method      and tie_margin: as in `decide`
    raises      ValueError  if there is no rung, no calls enough for the first, or no vote
    """
    _check(rungs, most_calls)
    tried = spent = 0
    while True:
        rung = rungs[tried]
        votes = yield rung
        if not votes:
            raise ValueError(f"rung '{rung.name}' must have votes, got none; send those it gave")
        free = rung.order_free
        verdict = decide(votes, texts, order_free=free, method=method, tie_margin=tie_margin)
        tried, spent = tried + 1, spent + rung.calls
        settled, last = verdict.status in SETTLED, tried == len(rungs)
        stopped = not settled and not last and spent + rungs[tried].calls > most_calls
        if settled or last or stopped:
            return Outcome(verdict, rung if settled else None, tuple(rungs[:tried]), stopped)


def _check(rungs: Sequence[Rung], most_calls: int) -> None:
    if not rungs:
        raise ValueError("a ladder must have a rung, got none; name one way to ask at least")
    if rungs[0].calls > most_calls:
        raise ValueError(
            f"most_calls must cover the first rung, '{rungs[0].name}' with {rungs[0].calls}, "
            f"got {most_calls}; allow more or begin with a cheaper one"
        )
