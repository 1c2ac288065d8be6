"""A prompt cut into prefix, documents and suffix, with the documents in canonical order."""

from __future__ import annotations

from dataclasses import dataclass, replace

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segments:
    """Token ids of `prefix | document_1 .. document_K | suffix`, each tokenised on its own.

    order  index in the caller's list of the document that stands at each place
    """

    prefix: Ids
    documents: tuple[Ids, ...]
    suffix: Ids
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.order:
            object.__setattr__(self, "order", tuple(range(len(self.documents))))

    def canonical(self) -> Segments:
        """Return the same set of documents in the order of their token ids (DESIGN 6).

        Equal sets become equal objects but for `order`, so that everything computed from the ids is
        equal to the last bit.
        """
        places = sorted(range(len(self.documents)), key=lambda place: self.documents[place])
        return replace(
            self,
            documents=tuple(self.documents[place] for place in places),
            order=tuple(self.order[place] for place in places),
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the length of each document, in tokens."""
        return tuple(len(document) for document in self.documents)

    @property
    def end(self) -> int:
        """Return the position of the first suffix token."""
        return len(self.prefix) + sum(self.lengths)

    @property
    def ids(self) -> Ids:
        """Return the whole prompt in its physical order."""
        return self.prefix + sum(self.documents, ()) + self.suffix
