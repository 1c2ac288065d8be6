"""Versions: which edits come next, which were there already, and which do not fit."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

from server.errors import PlanError
from server.sessions.document import Change, Document, Splice
from server.sessions.text import Encoding

REMEMBERED = 128  # edits whose repetition is known

Reason = Literal["gap", "stale", "hash"]


@dataclass(frozen=True, slots=True)
class Revision:
    """What a client asks a document to become.

    base     version that it was made for; None = whichever there is
    version  that the document then has; None = the next
    changes  one after the other, each to the result of the one before
    whole    the document itself, instead of changes
    hash     that the result must have; None = any
    """

    base: int | None = None
    version: int | None = None
    changes: tuple[Change, ...] = ()
    encoding: Encoding = "utf-16"
    whole: Document | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a revision.

    splices  where each change was made; None = not by changes to texts alone
    again    True = it was applied before, and changed nothing now
    """

    version: int
    hash: str
    splices: tuple[Splice, ...] | None = ()
    again: bool = False


class Conflict(PlanError):
    """A revision that does not fit (409); it says what the document is, so that the client can.

    reason  gap = versions before it are missing; stale = the document is another by now; hash = the
            result would not be what the client has
    """

    status = 409

    def __init__(self, message: str, reason: Reason, version: int, digest: str) -> None:
        super().__init__(message, param="base_version", code=f"version_{reason}")
        self.reason: Reason = reason
        self.version = version
        self.hash = digest

    def wire(self) -> dict[str, dict[str, Any]]:
        """Return the error object, with what the document is."""
        facts = {"reason": self.reason, "expected_version": self.version, "hash": self.hash}
        return {"error": {**super().wire()["error"], **facts}}


class Versions:
    """A document and its latest versions; a revision is applied whole, or not at all.

    most  bytes of the document in UTF-8
    """

    def __init__(self, document: Document, most: int) -> None:
        self._most = most
        self._check(document)
        self.document = document
        self.version = 0
        self._past: OrderedDict[int, tuple[int, str]] = OrderedDict()

    def ahead(self, revision: Revision) -> bool:
        """Return whether versions before it are missing."""
        return revision.base is not None and revision.base > self.version

    def check(self, version: int | None) -> None:
        """Raise Conflict if the document is at another version than this."""
        if version is not None and version != self.version:
            reason: Reason = "gap" if version > self.version else "stale"
            raise self._conflict(reason, f"name version {self.version}", f"{version}")

    def put(self, revision: Revision) -> Applied:
        """Apply a revision.

        raises  Conflict   if it does not fit
                PlanError  if a change cannot be made, or the document would be too large
        """
        base = self.version if revision.base is None else revision.base
        version = base + 1 if revision.version is None else revision.version
        if version <= base and revision.base is not None:
            raise PlanError(
                f"version must be above base_version {base}, got {version}; count up",
                param="version",
            )
        seen, mark = self._past.get(version), hash(revision)
        if seen is not None and seen[0] == mark:
            return Applied(version, seen[1], again=True)
        if base > self.version:
            raise self._conflict("gap", f"follow version {self.version}", f"one after {base}")
        if base < self.version or version <= self.version:
            raise self._conflict("stale", f"be made for version {self.version}", f"{base}")
        document, splices = self._changed(revision)
        digest = document.hash
        if revision.hash is not None and revision.hash != digest:
            raise self._conflict("hash", f"give a text with hash {digest}", revision.hash[:200])
        self.document, self.version = document, version
        self._past[version] = mark, digest
        if len(self._past) > REMEMBERED:
            self._past.popitem(last=False)
        return Applied(version, digest, splices)

    def _changed(self, revision: Revision) -> tuple[Document, tuple[Splice, ...] | None]:
        document = self.document
        if revision.whole is not None:
            if revision.whole.chat != document.chat:
                raise PlanError(
                    "document must stay what it is, one text or messages, got the other; make "
                    "another session",
                    param="text" if document.chat else "messages",
                )
            self._check(revision.whole)
            return revision.whole, None
        splices: list[Splice | None] = []
        for change in revision.changes:
            document, splice = document.changed(change, revision.encoding)
            splices.append(splice)
        self._check(document)
        known = tuple(splice for splice in splices if splice is not None)
        return document, known if len(known) == len(splices) else None

    def _check(self, document: Document) -> None:
        if document.nbytes > self._most:
            raise PlanError(
                f"text must be at most {self._most} bytes, got {document.nbytes}; send less text",
                status=413,
                code="request_too_large",
            )

    def _conflict(self, reason: Reason, must: str, got: str) -> Conflict:
        message = f"request must {must}, got {got}; send the whole text"
        return Conflict(message, reason, self.version, self.document.hash)
