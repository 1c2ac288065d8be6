"""A judge's margins fitted to a data set's labels, and kept for those who ask it later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portia.probability import FITS, Fit, FitMethod, Temperature, kept
from server.errors import PlanError
from trials.datasets import TIE, Item
from trials.trial import Judge

LEAST = 30  # labelled items: with less, a rate of right ones is known to no better than .18


@dataclass(frozen=True, slots=True)
class Fitting:
    """How to fit, and where what is found is kept."""

    method: FitMethod
    file: Path

    @classmethod
    def of(cls, source: str, method: str, file: Path | None) -> Fitting:
        """Read the options (PlanError).

        source  of what is right
        file    the store of what is known of a judge
        """
        if source != "labels":
            raise PlanError(f"--fit must be labels, got {source[:60]!r}; write --fit labels")
        known = {name: name for name in FITS}
        if method not in known:
            raise PlanError(
                f"--fit-method must be one of {', '.join(known)}, got {method[:60]!r}; name one"
            )
        if file is None:
            raise PlanError(
                "--fit must have a place where the fit is kept, got none; give --state-dir, and "
                "serve with the same"
            )
        return cls(known[method], file)

    def check(self, items: Sequence[Item]) -> None:
        """Refuse a data set with too few labels, before anything runs (PlanError)."""
        _enough(sum(_fits(item) for item in items), "in the data")

    def fitted(self, items: Sequence[Item], done: Mapping[str, Mapping[str, Any]]) -> Fit:
        """Return the fit to what was judged (PlanError if that is too little).

        done  records by the items' keys
        """
        seen = [each for item in items if _fits(item) for each in _seen(done.get(item.key))]
        _enough(len(seen), "with a margin")
        margins, right = zip(*seen, strict=True)
        return FITS[self.method](margins, right)

    def keep(self, judge: Judge, items: Iterable[Item], fit: Fit) -> str:
        """Keep a fit for requests like these, and return the sentence that says so."""
        like = next(item for item in items if _fits(item))
        assert judge.calibration is not None, "a command's judge has a store"
        judge.calibration.keep(judge.judging(like).fit_key, kept(fit))
        how = f"{fit.temperature:.4g}" if isinstance(fit, Temperature) else "curve"
        return (
            f"{self.method} {how} of {fit.count} labelled items is kept in {self.file}: log loss "
            f"{fit.before:.3f} nats an item before, {fit.after:.3f} with it on items left out"
        )


def _fits(item: Item) -> bool:
    return item.label not in (None, TIE) and len(item.candidates) == 2


def _seen(record: Mapping[str, Any] | None) -> list[tuple[float, bool]]:
    """Return the margin of the better-placed candidate and whether it is the right one.

    Nothing where no margin tells. Whether anybody was named does not matter: to leave out what a
    judge abstained from would make it look surer than it is.
    """
    if record is None or not record.get("margin"):
        return []
    return [(record["margin"], record["ranking"][0]["id"] == record["label"])]


def _enough(count: int, of_what: str) -> None:
    if count < LEAST:
        raise PlanError(
            f"--fit must have at least {LEAST} labelled pairs {of_what}, got {count}; judge more, "
            "or by a form and model whose answers have margins"
        )
