"""A source and a target, each with its own positions: one grows while the other is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import cast

import torch
from torch import Tensor

from kvedit.group_position import GroupPositionReading
from kvedit.segments import Ids
from server.concurrency import unbroken
from server.engines import readings
from server.engines.hf.preparation import Preparation
from server.engines.hf.sampling import generator, processors
from server.engines.hf.worker import Worker
from server.errors import EngineError, PlanError
from server.job import ReadingSpec, Sampling
from server.prompt import Part, Prompt, TextPrompt

STEP, MARGIN = 256, 64  # tokens: the offset is raised so far at once, and lies that far off
PIECE = 512  # source tokens of one forward: others take their steps between


class Groups:
    """What was read and written; `encode` and `__init__` are for the thread that encodes.

    The offset is the least multiple of `STEP` that covers the source with a margin, raised as that
    grows; a source that is whole before anything is written counts exactly, and then the model
    reads as it does by itself. The reading's numbers may ask for a larger one (`offset`), or keep
    it where it is, for models that were trained so (`trained`).

    fed, seen  target and source tokens that were computed
    """

    def __init__(
        self, preparation: Preparation, spec: ReadingSpec, prompt: Prompt, sampling: Sampling
    ) -> None:
        preparation.check_sampling(sampling, spec)
        numbers = dict(spec.numbers)
        self._asked, self._trained = int(numbers.get("offset", 0)), bool(numbers.get("trained"))
        encoded = preparation.encode(prompt, spec)
        assert encoded.segments is not None, "the reading has the prompt cut"
        made = readings.build(spec, None, None)
        assert isinstance(made, GroupPositionReading), "only group positions are read so"
        self._reading, self._preparation, self._sampling = made, preparation, sampling
        self._offset = self._asked
        self._unread: list[int] = list(encoded.segments.prefix)
        self._head, self._target = len(encoded.segments.suffix), list(encoded.segments.suffix)
        self._read = self._written = 0  # tokens that the spans have
        self._generator = (
            generator(sampling, 0, preparation.door.device) if sampling.temperature else None
        )
        self._context = ""  # the last piece of the source: what follows is tokenised behind it
        self.ends = frozenset() if sampling.ignore_eos else preparation.ends | encoded.ends
        self.vocabulary = preparation.vocabulary
        self.whole = self.failed = False
        self.fed = self.seen = 0
        self._check_room(len(self._unread))

    @property
    def source(self) -> int:
        """Return how many tokens the source group has, those before the source included."""
        return self._read + len(self._unread)

    @property
    def written(self) -> int:
        """Return how many tokens were written, without the header of the answer."""
        return len(self._target) - self._head

    @property
    def nbytes(self) -> int:
        """Return the bytes of its cache."""
        return self._reading.size

    @property
    def room(self) -> bool:
        """Return whether the model has a position for one more token."""
        offset = self._offset if self._trained else max(self._offset, self.source)
        return offset + len(self._target) < self._preparation.limit

    def encode(self, text: str) -> int:
        """Add a piece of the source; return how many tokens that was (PlanError: no room)."""
        ids, before = self._ids(self._context + text), self._ids(self._context)
        # behind the piece before it, as a tokenizer would see it in the whole text; where the two
        # would merge, which no cut at a space does, it is read by itself
        alone = ids[: len(before)] != before
        ids = self._ids(text) if alone else ids[len(before) :]
        self._check_room(self.source + len(ids))
        self._context = text
        self._unread += ids
        return len(ids)

    def write(self, token: int) -> None:
        """Add a token to the target; it is read with the next step."""
        self._target.append(token)

    def retract(self, count: int) -> None:
        """Take the last tokens of the target back."""
        if count:
            del self._target[-count:]
            self._drop(max(self._written - len(self._target), 0))

    def piece(self) -> None:
        """Read some of a source that one forward does not hold."""
        self._forward(self._unread[:PIECE], [], None)

    @property
    def long(self) -> bool:
        """Return whether what is unread needs more than one forward."""
        return len(self._unread) > PIECE

    def step(self) -> int:
        """Read what is unread; return what the model says next.

        Behind new source the target's last token is read again: it predicts the next one, and may
        see all that was read.
        """
        if self._written == len(self._target):
            self._drop(1)
        self._settle_offset()
        logits = self._forward([*self._unread], self._target[self._written :], 1)
        assert logits is not None, "the last token was read"
        return self._pick(logits[:, -1].float())

    def _forward(self, source: list[int], target: list[int], keep: int | None) -> Tensor | None:
        """Read tokens of both groups, and take them off what is unread."""
        device = self._preparation.door.device
        ids = torch.tensor([[*source, *target]], device=device)
        self._reading.feed(len(source))
        logits = self._preparation.door.forward(ids, self._reading, keep)
        del self._unread[: len(source)]
        self._read += len(source)
        self._written += len(target)
        self.seen, self.fed = self.seen + len(source), self.fed + len(target)
        return logits

    def _drop(self, count: int) -> None:
        if count:
            self._reading.retract(count)
            self._written -= count

    def _settle_offset(self) -> None:
        """Raise the offset where the source has outgrown it."""
        if self._trained or self.source <= self._offset:
            return
        exact = self.whole and not self._written
        covered = -(-(self.source + MARGIN) // STEP) * STEP
        limit = self._preparation.limit
        fits = covered + len(self._target) < limit
        self._offset = covered if fits and not exact else self.source
        self._reading.raise_offset(self._offset)

    def _check_room(self, source: int) -> None:
        """Refuse what the model has no positions for (PlanError)."""
        offset = self._offset if self._trained else max(self._offset, source)
        longest = max(source, offset + len(self._target) + 1)
        if longest > self._preparation.limit:
            raise self._preparation.encoder.overflow(longest, advised=False)

    def _pick(self, row: Tensor) -> int:
        """Take the next token, [1, vocab] of logits."""
        ids = torch.tensor([self._target], device=row.device)
        sampling, width = self._sampling, row.shape[-1]
        for processor in processors(sampling, self._head, width, row.device, None, self.ends):
            row = processor(ids, row)
        if self._generator is None:
            return int(row.argmax(-1))
        return int(torch.multinomial(row.softmax(-1), 1, generator=self._generator))

    def _ids(self, text: str) -> Ids:
        """Return the ids of somebody's text: control tokens in it are spelled."""
        if not text:
            return ()
        return self._preparation.encoder.more(TextPrompt((Part(text, literal=True),))).ids


class HfGroups:
    """`Groups` at work: a step is a call of the worker, so that others take theirs between.

    Nothing runs, and no thread waits, while it is asked for nothing.
    """

    def __init__(self, groups: Groups, preparing: Executor, worker: Worker) -> None:
        self._groups: Groups | None = groups
        self._preparing, self._worker = preparing, worker
        self._vocabulary = groups.vocabulary
        self.ends = groups.ends

    @property
    def usage(self) -> dict[str, int]:
        """Return the tokens of source and target, and how many of them were computed."""
        if self._groups is None:
            return {}
        groups = self._groups
        return {
            "source_tokens": groups.source,
            "target_tokens": groups.written,
            "source_tokens_fed": groups.seen,
            "target_tokens_fed": groups.fed,
        }

    @property
    def room(self) -> bool:
        """Return whether one more token may be written."""
        return self._open.room

    @property
    def nbytes(self) -> int:
        """Return the bytes of its cache."""
        return 0 if self._groups is None else self._groups.nbytes

    def shown(self, token: int) -> bytes:
        """Return what a token adds to the text."""
        return self._vocabulary.shown[token]

    def text(self, token: int) -> str:
        """Return what a token says, with U+FFFD for half a character."""
        return self._vocabulary.text(token)

    async def read(self, text: str) -> int:
        """Add a piece of the source, read with the next step; return its tokens (PlanError)."""
        add = partial(self._open.encode, text)
        return await unbroken(asyncio.get_running_loop().run_in_executor(self._preparing, add))

    def end(self) -> None:
        """Say that the source is whole."""
        self._open.whole = True

    def write(self, token: int) -> None:
        """Add a token to the target."""
        self._open.write(token)

    async def retract(self, count: int) -> None:
        """Take the last tokens of the target back."""
        await self._called(lambda groups: groups.retract(count))

    async def say(self) -> int:
        """Read what is unread, and return what the model says next.

        raises  PlanError    if it was closed, or the model has no more positions
                EngineError  if the engine has stopped, or failed
        """
        while self._open.long:
            await self._called(Groups.piece)
        return cast("int", await self._called(Groups.step))

    async def close(self) -> None:
        """Forget the sequence; what is running for it ends with its step."""
        self._groups = None

    @property
    def _open(self) -> Groups:
        if self._groups is None:
            raise PlanError("stream must be open, got one that was closed; open another")
        return self._groups

    async def _called(self, call: Callable[[Groups], object]) -> object:
        """Call what changes the sequence between two steps of others; who leaves waits for it."""
        groups = self._open

        def run() -> object:
            if self._groups is None or groups.failed:
                return None  # closed meanwhile: nobody waits
            try:
                return call(groups)
            except Exception:
                groups.failed = True  # a cache that is half written means nothing
                raise

        if groups.failed:
            raise EngineError("the stream must be whole, got one that has failed; open another")
        outcome = await unbroken(asyncio.wrap_future(self._worker.call(run)))
        _ = self._open  # closed meanwhile: what it said is of no use
        return outcome
