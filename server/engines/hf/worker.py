"""The thread that owns the model: every running sequence gets one step per round."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic

import torch

from kvedit.hf import Door
from server.chunk import Chunk
from server.engines.hf.sequence import Sequence
from server.engines.hf.stream import Channel
from server.errors import EngineError

PROMPT_TOKENS = 1024  # of prompts in one shared forward; a longer piece has work enough of its own
PATIENCE = 0.02  # seconds that the first of several requests waits for those that are being planned

log = logging.getLogger(__name__)


class Ticket:
    """One request at the worker: its sequences, and where their chunks go.

    left  set when none of its sequences will take another step
    """

    def __init__(self, sequences: Iterable[Sequence], channel: Channel) -> None:
        self.waiting = deque(sequences)
        self.running = 0
        self.channel = channel
        self.left = threading.Event()


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Something else that needs the model: it is called between two steps.

    outcome  what it returns, or raises
    """

    call: Callable[[], object]
    outcome: Future[object]


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A running sequence of a request."""

    ticket: Ticket
    sequence: Sequence

    @property
    def over(self) -> bool:
        """Return whether there is no next step."""
        return self.sequence.done or self.ticket.channel.cancelled

    def attempt(self, step: Callable[[], Chunk | None]) -> None:
        """Take a step, and send what it says; an error ends this request."""
        try:
            chunk = step()
        except Exception as error:
            self.fail(error)
        else:
            if chunk is not None:
                self.ticket.channel.send(chunk)

    def fail(self, error: Exception) -> None:
        """Tell the caller that the request has failed; its other choices stop too."""
        log.error("a sequence failed", exc_info=error)
        self.sequence.fail()
        self.ticket.channel.send(_failed(error))
        self.ticket.channel.cancelled = True


class Worker:
    """Runs sequences step by step, in turn; those that can share a forward take theirs together.

    door   of the model
    limit  sequences that run at once; the others wait in the order they came, but each request
           always has one running, so that a large batch keeps nobody out
    """

    def __init__(self, door: Door, limit: int) -> None:
        self._door = door
        self._limit = limit
        self._running = 0
        self._coming = 0
        self._inbox: SimpleQueue[Ticket | Call | None] = SimpleQueue()
        self._idle: deque[Callable[[], bool]] = deque()
        self._tickets: list[Ticket] = []
        self._queue: deque[Running] = deque()
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="evenhand-hf", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Return whether a request sent now would run."""
        return self._thread.is_alive() and not self._closing

    def submit(self, ticket: Ticket) -> None:
        """Take a request; it joins at the next step."""
        with self._lock:  # a ticket must not slip in behind the end of the thread
            self.check()
            self._inbox.put(ticket)

    def when_idle(self, work: Callable[[], bool]) -> None:
        """Do work while nobody waits: a call does a piece, and says whether there is more.

        Whoever comes waits for one piece at most. Work that fails is dropped.
        """
        with self._lock:
            if work not in self._idle:
                self._idle.append(work)
            self._inbox.put(None)

    def call(self, call: Callable[[], object]) -> Future[object]:
        """Call something between two steps (EngineError if the worker has stopped)."""
        outcome: Future[object] = Future()
        with self._lock:
            self.check()
            self._inbox.put(Call(call, outcome))
        return outcome

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce a request that can share forwards: who is idle until then may wait for it."""
        with self._lock:
            self._coming += 1
        try:
            yield
        finally:
            with self._lock:
                self._coming -= 1
            self._inbox.put(None)  # whether it was submitted or not

    def check(self) -> None:
        """Raise EngineError (503) if a request sent now would not run."""
        if not self.alive:
            raise _stopped()

    def close(self) -> None:
        """Stop at the next step, and wait for it."""
        with self._lock:
            self._closing = True
            self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while not self._closing:
                    self._receive()
                    if self._queue:
                        self._round()
        finally:
            self._abandon()

    def _receive(self) -> None:
        """Take in what has come; wait for something while there is nothing to do."""
        idle = not self._running
        while not self._inbox.empty() or not (self._running or self._closing):
            if self._inbox.empty() and self._worked():
                continue
            self._take(self._inbox.get())
        if idle and self._queue and self._queue[0].sequence.shares:
            self._await_others()

    def _worked(self) -> bool:
        """Do a piece of the work that was left for now; return whether there was any."""
        with self._lock:
            if not self._idle:
                return False
            work = self._idle.popleft()
        try:
            more = work()
        except Exception as error:
            log.error("work in an idle moment failed", exc_info=error)
            return True
        if more:
            self.when_idle(work)
        return True

    def _await_others(self) -> None:
        """Take in what is being planned: one forward for all costs less than one more for each."""
        end = monotonic() + PATIENCE
        # in this order: a request is in the inbox before it stops coming
        while (self._coming or not self._inbox.empty()) and not self._closing:
            try:
                self._take(self._inbox.get(timeout=max(end - monotonic(), 0)))
            except Empty:
                return

    def _take(self, asked: Ticket | Call | None) -> None:
        if isinstance(asked, Ticket):
            self._tickets.append(asked)
            self._admit()
        elif asked is not None and asked.outcome.set_running_or_notify_cancel():
            try:
                asked.outcome.set_result(asked.call())
            except Exception as error:
                log.error("a call of the model failed", exc_info=error)
                asked.outcome.set_exception(_failed(error))

    def _round(self) -> None:
        """Give the first sequence its step, and those that fit into its forward theirs."""
        members = self._together()
        self._step([each for each in members if not each.over])
        self._queue = deque(each for each in self._queue if each not in members)
        self._receive()  # who came meanwhile goes before the members' next step
        for each in members:
            self._leave(each.ticket) if each.over else self._queue.append(each)

    def _together(self) -> list[Running]:
        """Return the first sequence, and those behind it that can share its forward.

        Single tokens always fit in; pieces of prompts as long as they are short together.
        """
        members: list[Running] = []
        alone, room = not self._queue[0].sequence.shares, PROMPT_TOKENS
        for each in self._queue:
            if members and (alone or not each.sequence.shares):
                continue
            if not each.over:
                each.attempt(each.sequence.begin)
            length = 1 if each.over else each.sequence.pending.shape[1]
            if not members or length == 1 or length <= room:
                members.append(each)
                room -= length
        return members

    def _step(self, members: list[Running]) -> None:
        """Run the model once, and let each sequence go on from what it gave.

        One that is cancelled meanwhile too: it may stay, and has read its tokens now.
        """
        if len(members) < 2:
            for each in members:
                each.attempt(each.sequence.step)
            return
        sequences = [each.sequence for each in members]
        try:
            logits, failed = self._door.together(
                [each.pending for each in sequences], [each.reading() for each in sequences]
            )
        except Exception as error:  # of none of them in particular; their caches are half written
            for each in members:
                each.fail(error)
            return
        for index, each in enumerate(members):
            if index in failed:
                each.fail(failed[index])
            else:
                each.attempt(partial(each.sequence.take, logits[index, None]))

    def _admit(self) -> None:
        """Let waiting sequences run, oldest request first."""
        for ticket in self._tickets:
            while ticket.waiting and (not ticket.running or self._running < self._limit):
                self._queue.append(Running(ticket, ticket.waiting.popleft()))
                ticket.running += 1
                self._running += 1

    def _leave(self, ticket: Ticket) -> None:
        """Give a sequence's place to the next."""
        ticket.running -= 1
        self._running -= 1
        if ticket.channel.cancelled:
            ticket.waiting.clear()
        if not ticket.running and not ticket.waiting:
            self._tickets.remove(ticket)
            ticket.left.set()
        self._admit()

    def _abandon(self) -> None:
        """Tell every caller that nothing more will come."""
        with self._lock:
            self._closing = True
        while not self._inbox.empty():
            asked = self._inbox.get()
            if isinstance(asked, Ticket):
                self._tickets.append(asked)
            elif asked is not None and asked.outcome.set_running_or_notify_cancel():
                asked.outcome.set_exception(_stopped())
        for ticket in self._tickets:
            ticket.channel.send(_stopped())
            ticket.left.set()
        self._tickets.clear()
        self._queue.clear()


def _failed(error: Exception) -> EngineError:
    return EngineError(
        f"the engine cannot finish this request, got {type(error).__name__}; see the server's log"
    )


def _stopped() -> EngineError:
    return EngineError(
        "the engine must be running, got one that has stopped; start the server again", status=503
    )
