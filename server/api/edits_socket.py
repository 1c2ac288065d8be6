"""`WS /v1/edit-sessions/{id}/ws`: a session's edits and answers on one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from server.api import frames
from server.api.common import Service, unexpected
from server.api.edits import PATH, Asked, Given, Owner, acknowledged, asking, state
from server.errors import EvenhandError, PlanError
from server.job import Reply
from server.protocol.common import Body
from server.protocol.edits import CancelFrame, CompleteFrame, EditFrame
from server.protocol.replies import merged
from server.sessions.running import Cancelled, Running
from server.sessions.session import EditSession
from server.sessions.versions import Applied, Conflict, Revision

router = APIRouter()
log = logging.getLogger("evenhand")

FRAMES: Mapping[str, type[Body]] = {
    "edit": EditFrame,
    "complete": CompleteFrame,
    "cancel": CancelFrame,
}
RESTARTING, GONE = 1012, 4410  # codes that a socket is closed with


@router.websocket(PATH + "/{name}/ws")
async def socket(websocket: WebSocket, name: str, owner: Owner, service: Given) -> None:
    """Talk about a session until its client goes; what it asked stops then."""
    session = service.sessions.find(name, owner)
    await websocket.accept()
    talk = Talk(websocket, service, session)
    heard = asyncio.create_task(talk.listen())
    stop = asyncio.create_task(service.admission.aborted.wait())
    try:
        await asyncio.wait({heard, stop}, return_when=asyncio.FIRST_COMPLETED)
        if heard.done():
            heard.result()
        else:
            await websocket.close(RESTARTING)
    finally:
        for task in (heard, stop):
            task.cancel()
        await asyncio.gather(heard, stop, return_exceptions=True)
        await talk.end()


class Talk:
    """One connection about one session."""

    def __init__(self, websocket: WebSocket, service: Service, session: EditSession) -> None:
        self._socket = websocket
        self._service = service
        self._session = session
        self._running: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: tuple[str, int] | None = None  # the last resync
        self._wholes = 0  # times that the whole text was sent

    async def listen(self) -> None:
        """Take frames until the client goes, or its session does."""
        versions = self._session.versions
        opening = {"version": versions.version, "hash": versions.document.hash}
        with suppress(WebSocketDisconnect):
            await self._send("ack", {**opening, **state(self._session)})
            while (message := await self._socket.receive())["type"] == "websocket.receive":
                if not await self._take(frames.raw(message)):
                    await self._socket.close(GONE)
                    return

    async def end(self) -> None:
        """Stop what this connection asked for."""
        for running in tuple(self._running.values()):
            await running.aclose()
        for task in (tasks := tuple(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, raw: bytes) -> bool:
        """Do what a frame says; return False if the session is gone."""
        name: str | None = None
        try:
            self._service.sessions.find(self._session.id, self._session.maker.owner)
        except PlanError as error:
            await self._send("error", error.wire())
            return False
        try:
            frame = frames.read(raw, FRAMES, self._service.settings)
            if isinstance(frame, EditFrame):
                await self._edit(frame)
            elif isinstance(frame, CompleteFrame):
                name = frame.id
                self._complete(frame)
            elif isinstance(frame, CancelFrame) and frame.id in self._running:
                self._running[frame.id].cancel("its cancellation")
        except Conflict as conflict:
            await self._resync(conflict)
        except EvenhandError as error:
            await self._send("error", {**({} if name is None else {"id": name}), **error.wire()})
        return True

    async def _edit(self, frame: EditFrame) -> None:
        revision = frame.revision()
        if frame.wait or self._session.versions.ahead(revision):
            self._start(self._held(frame, revision))
            return
        # at once: the next frame may ask about the text that this one makes
        applied = self._session.apply(revision)
        self._wholes += revision.whole is not None
        await self._acknowledge(frame, applied)

    async def _held(self, frame: EditFrame, revision: Revision) -> None:
        wholes = self._wholes
        try:
            applied = await self._session.put(revision)
            if frame.wait:
                await self._session.settle()
            await self._acknowledge(frame, applied)
        except Conflict as conflict:
            if wholes == self._wholes:  # else the client has sent the whole text since: no matter
                await self._resync(conflict)
        except EvenhandError as error:
            await self._send("error", error.wire())

    async def _acknowledge(self, frame: EditFrame, applied: Applied) -> None:
        warnings = {"warnings": frame.warnings} if frame.warnings else {}
        await self._send("ack", {**acknowledged(self._session, applied), **warnings})

    async def _resync(self, conflict: Conflict) -> None:
        """Say once how things are: all edits that were held behind a gap end with the same."""
        told = (conflict.reason, conflict.version)
        if conflict.reason == "gap" and told == self._told:
            return
        self._told = told
        facts = {"expected_version": conflict.version, "hash": conflict.hash}
        await self._send("resync", {**facts, "reason": conflict.reason})

    def _complete(self, frame: CompleteFrame) -> None:
        if frame.id in self._running:
            raise PlanError(
                f"id must differ from those that run, got {frame.id!r} again; count up", param="id"
            )
        session = self._session
        if frame.version is not None and frame.version > session.versions.version:
            self._start(self._later(frame))
            return
        asked = asking(self._service, session, frame)
        place = self._service.admission.take()
        running = self._running[frame.id] = session.ask(asked.ask)
        task = self._start(self._answer(frame.id, asked, running))

        def over(_: object) -> None:
            place.release()
            self._running.pop(frame.id, None)

        task.add_done_callback(over)

    async def _later(self, frame: CompleteFrame) -> None:
        """Ask once the version that is asked about has come."""
        await self._session.reached(frame.version)
        try:
            self._session.versions.check(frame.version)
            self._complete(frame)
        except Conflict as conflict:
            await self._resync(conflict)
        except EvenhandError as error:
            await self._send("error", {"id": frame.id, **error.wire()})

    async def _answer(self, name: str, asked: Asked, running: Running) -> None:
        """Send an answer as it comes."""
        tally, chunks, seq = asked.answering.tally(), [], 0
        try:
            await running.begun()
            notes = asked.notes(running)
            async for chunk in running:
                tally.add(chunk)
                chunks.append(chunk)
                if chunk.text:
                    await self._send("delta", {"id": name, "seq": seq, "text": chunk.text})
                    seq += 1
            [whole] = merged(chunks)
            ending = {
                "finish_reason": whole.finish_reason,
                "stop_reason": whole.stop_reason,
                "logprobs": asked.answering.writer.whole(whole)["logprobs"],
                "usage": tally.usage(),
                "evenhand": asked.answering.evenhand(tally, Reply(notes=notes)),
            }
            await self._send("done", {"id": name, "seq": seq, "version": asked.version, **ending})
        except Cancelled as cancelled:
            ending = {"finish_reason": "cancelled", **cancelled.wire()}
            await self._send("done", {"id": name, "seq": seq, "version": asked.version, **ending})
        except EvenhandError as error:
            await self._send("error", {"id": name, **error.wire()})
        finally:
            await running.aclose()

    async def _send(self, kind: str, fields: dict[str, Any]) -> None:
        await self._socket.send_json({"type": kind, **fields})

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work; what it cannot tell a client that has gone, nobody is told."""
        try:
            await work
        except (WebSocketDisconnect, OSError):
            log.debug("client of a session went away while it was written to")
        except Exception:
            log.exception("work of a session's socket failed")
            with suppress(WebSocketDisconnect, OSError, RuntimeError):
                await self._send("error", unexpected().wire())
