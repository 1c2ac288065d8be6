"""A sequence whose text is edited: which tokens are computed, now, at the answer, and when idle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from kvedit.diff import Hunk, hunks
from kvedit.edited import EditedReading
from kvedit.healing import Weighing, after, anew, most_read, next_chunk, restart
from kvedit.hf import Door
from kvedit.plain import PlainReading
from kvedit.segments import Ids
from server.engines.base import Edit, Fidelity
from server.engines.hf.forward import ReadingForward
from server.job import ReadingSpec

CHUNK = 32  # tokens that are healed before anybody who waits is served
BITE = 128  # of new text that nobody has asked about yet: more at once costs less a token


@dataclass(frozen=True, slots=True)
class Healing:
    """What is computed again of a text that was edited, besides what is new.

    after      kept tokens behind each hunk
    read       tokens that the answer reads most, as a share of the text
    max_edits  from one exact text to the next
    exact      whether everything behind the first change is
    """

    after: int = 0
    read: float = 0.0
    max_edits: int = 0
    exact: bool = True

    @classmethod
    def of(cls, reading: ReadingSpec | None) -> Healing:
        """Return what a reading asks for; None = a text without stages, which is always exact."""
        if reading is None:
            return cls()
        numbers = dict(reading.numbers)
        return cls(
            int(numbers["heal_after"]),
            float(numbers["heal_read"]),
            int(numbers["max_edits"]),
            bool(numbers.get("exact")),
        )


class EditedForward(ReadingForward):
    """The model through the door, with a text that was edited.

    ids    of the text; whoever owns it sees to that
    share  of the text that is computed again before an answer, where it is read most
    due    whether an answer is to begin: stale tokens that it reads are computed again first
    """

    def __init__(self, door: Door, reading: EditedReading, share: float) -> None:
        super().__init__(door, reading)
        self.ids: Sequence[int] = ()
        self.due = False
        self._edited, self.share = reading, share

    @property
    def shares(self) -> bool:
        """Return whether nothing is to be weighed first."""
        return not self.due

    def read(self, ids: Tensor, keep: int | None) -> Tensor:
        """Read what is due; heal what its last token reads most; read that token again."""
        if not self.due or keep is None:
            return super().read(ids, keep)
        self.due = False
        weighing = Weighing(self._edited, self._door.executor)
        logits = self._door.run(ids, weighing, keep)
        length = self._edited.length
        count = round(self.share * length)
        chosen = most_read(weighing.weights, self._edited.outdated, count)
        if not chosen:
            return logits
        self._edited.heal((*chosen, length - 1))
        return super().read(self.pending(ids), keep)

    def pending(self, like: Tensor) -> Tensor:
        """Return the ids of what is due, [1, query] int64, where those of `like` are."""
        return like.new_tensor([[self.ids[index] for index in self._edited.due]])


class EditedText:
    """The text of one sequence, as ids, and what of it is in the cache.

    ids      of the text, without what was answered and not read
    control  ids of tokens that gather what stands before them: marks of turns, files and holes
    """

    def __init__(self, door: Door, healing: Healing, control: frozenset[int]) -> None:
        self.reading = EditedReading()
        self.forward = EditedForward(door, self.reading, healing.read)
        self._door, self._healing, self._control = door, healing, control

    def heal_by(self, healing: Healing) -> None:
        """Heal from now on by other numbers."""
        self._healing, self.forward.share = healing, healing.read

    @property
    def ids(self) -> Sequence[int]:
        """Return the ids of the text."""
        return self.forward.ids

    def become(self, old: Sequence[int], new: Ids, *, exact: bool = False) -> Edit:
        """Make the text another one; what is to be computed for that is due.

        old  the ids that it has now, with the answer's
        """
        changes = hunks(old[: self.reading.length], new)
        self.forward.ids = new
        self._plan(old, changes, new, exact=exact or self._healing.exact)
        due = self.reading.due
        first = min([*due, changes[0].start if changes else len(new)])
        return Edit(first, len(new) - first - len(due), len(due), self.stale_fraction)

    @property
    def stale_fraction(self) -> float:
        """Return the share of tokens that are stale, without those that are due."""
        stale = len({*self.reading.stale} - {*self.reading.due})
        return stale / max(len(self.ids), 1)

    def _plan(self, old: Sequence[int], changes: Sequence[Hunk], new: Ids, *, exact: bool) -> None:
        """Edit the reading, and say what is due."""
        reading, healing = self.reading, self._healing
        first, length = changes[0].start if changes else len(new), reading.length
        if exact:
            reading.edit(anew(length, new, min(first, reading.stale_from)))
            return
        if not changes:
            return
        pivots = [index for index, token in enumerate(new) if token in self._control]
        again = after(changes, len(new), healing.after, pivots)
        kept = changes[-1].stop < length or len(changes) > 1
        chosen = round(healing.read * len(new)) if kept or reading.stale else 0
        edits, cost = reading.edits + kept, len(again) + chosen
        if restart(changes, len(new), cost, edits, healing.max_edits) or self._moved(
            old, changes, new
        ):
            # where errors have added up, those of earlier edits are left behind too
            exact_to = reading.stale_from if edits > healing.max_edits else first
            reading.edit(anew(length, new, min(first, exact_to)))
        else:
            reading.edit(changes)
            reading.heal(again)

    def _moved(self, old: Sequence[int], changes: Sequence[Hunk], new: Ids) -> bool:
        """Return whether text went from one side of a mark to the other, as when a cursor moves.

        What follows the mark then reads it in another place, and healing some of it is not enough
        (measured: .92 of the next tokens at best). In the hunks it is text that changes on both
        sides of a mark, or a mark that goes and comes.
        """
        inner = [hunk for hunk in changes if hunk.stop < self.reading.length]
        if not inner:
            return False
        gone = chain(*(old[hunk.start : hunk.stop] for hunk in inner))
        come = chain(*(hunk.ids for hunk in inner))
        shift = inner[0].change
        between = new[inner[0].stop + shift : inner[-1].start + shift]
        marks = self._control
        return bool(marks & {*gone} & {*come}) or bool(marks & {*between})

    def ready(self) -> Tensor:
        """Return what is to be read before an answer, [1, query] int64: its last token with it."""
        self.reading.heal((len(self.ids) - 1,))
        self.forward.due = bool(self.reading.outdated)
        return self.forward.pending(torch.empty(0, dtype=torch.int64, device=self._door.device))

    def heal(self) -> bool:
        """Compute what is due, or a few stale tokens; return whether there is more to do."""
        if not self.reading.due:
            self.reading.heal(next_chunk(self.reading, CHUNK))
        if not self.reading.due:
            return False
        like = torch.empty(0, dtype=torch.int64, device=self._door.device)
        self.forward.due = False
        self._door.forward(self.forward.pending(like)[:, :BITE], self.reading, None)
        return bool(self.reading.due or self.reading.stale)

    def fidelity(self) -> Fidelity:
        """Compare the next token with that of the same text read anew."""
        stale, edits = self.stale_fraction, self.reading.edits
        edited = self.forward.read(self.ready(), 1)[0, -1]
        whole = torch.tensor([list(self.ids)], device=self._door.device)
        fresh = self._door.forward(whole, PlainReading(), 1)[0, -1]
        true, found = (each.float().log_softmax(-1) for each in (fresh, edited))
        kl = float((true.exp() * (true - found)).sum())
        return Fidelity(max(kl, 0.0), bool(true.argmax() == found.argmax()), stale, edits)
