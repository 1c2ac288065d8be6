"""The thread that owns the model: every running sequence gets one step per round."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from queue import SimpleQueue

import torch

from server.engines.hf.sequence import Sequence
from server.engines.hf.stream import Channel
from server.errors import EngineError

log = logging.getLogger(__name__)


class Ticket:
    """One request at the worker: its sequences, and where their chunks go."""

    def __init__(self, sequences: Iterable[Sequence], channel: Channel) -> None:
        self.waiting = deque(sequences)
        self.running = 0
        self.channel = channel


class Worker:
    """Runs sequences step by step, in turn.

    limit  sequences that run at once; the others wait in the order they came, but each request
           always has one running, so that a large batch keeps nobody out
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inbox: SimpleQueue[Ticket | None] = SimpleQueue()
        self._tickets: list[Ticket] = []
        self._turns: deque[tuple[Ticket, Sequence]] = deque()
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
                    if self._turns:
                        self._turn()
        finally:
            self._abandon()

    def _receive(self) -> None:
        """Take in what has come; wait for something while there is nothing to do."""
        while not self._inbox.empty() or not (self._turns or self._closing):
            ticket = self._inbox.get()
            if ticket is not None:
                self._tickets.append(ticket)
                self._admit()

    def _turn(self) -> None:
        """Give the first sequence its step; who came meanwhile goes before its next one."""
        ticket, sequence = self._turns[0]
        going = self._step(ticket, sequence)
        self._receive()
        self._turns.popleft()
        if going:
            self._turns.append((ticket, sequence))
        else:
            self._leave(ticket)

    def _admit(self) -> None:
        """Let waiting sequences run, oldest request first."""
        for ticket in self._tickets:
            while ticket.waiting and (not ticket.running or len(self._turns) < self._limit):
                self._turns.append((ticket, ticket.waiting.popleft()))
                ticket.running += 1

    def _step(self, ticket: Ticket, sequence: Sequence) -> bool:
        """Run one step unless nobody listens any more; return whether there are more to come."""
        channel = ticket.channel
        if channel.cancelled:
            return False
        try:
            chunk = sequence.step()
        except Exception as error:
            log.exception("a sequence failed")
            channel.send(_failed(error))
            channel.cancelled = True  # its other choices stop too
            return False
        if chunk is not None:
            channel.send(chunk)
        return not sequence.done

    def _leave(self, ticket: Ticket) -> None:
        """Give a sequence's place to the next."""
        ticket.running -= 1
        if ticket.channel.cancelled:
            ticket.waiting.clear()
        if not ticket.running and not ticket.waiting:
            self._tickets.remove(ticket)
        self._admit()

    def _abandon(self) -> None:
        """Tell every caller that nothing more will come."""
        with self._lock:
            self._closing = True
        while not self._inbox.empty():
            if (ticket := self._inbox.get()) is not None:
                self._tickets.append(ticket)
        for ticket in self._tickets:
            ticket.channel.send(_stopped())
        self._tickets.clear()
        self._turns.clear()


def _failed(error: Exception) -> EngineError:
    return EngineError(
        f"the engine cannot finish this request, got {type(error).__name__}; see the server's log"
    )


def _stopped() -> EngineError:
    return EngineError(
        "the engine must be running, got one that has stopped; start the server again", status=503
    )
