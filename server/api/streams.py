"""`WS /v1/streams`: a target is written while its source comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect

from server.api import frames
from server.api.common import Service, resolve, service, unexpected
from server.errors import EvenhandError, PlanError
from server.pipeline.parse import parse as parse_stages
from server.protocol.common import Body
from server.protocol.streams import Cancel, OpenFrame, SourceAppend, SourceEnd
from server.sessions.streams.opening import open_stream, stage_of
from server.sessions.streams.stream import Delta, Stream

router = APIRouter()
log = logging.getLogger("evenhand")

FRAME = 64  # characters that a frame counts for, besides its text: an empty one takes memory too
FRAMES: Mapping[str, type[Body]] = {
    "open": OpenFrame,
    "source.append": SourceAppend,
    "source.end": SourceEnd,
    "cancel": Cancel,
}
DONE, RESTARTING = 1000, 1012  # codes that a socket is closed with


@router.websocket("/v1/streams")
async def socket(websocket: WebSocket, service: Annotated[Service, Depends(service)]) -> None:
    """Hold one stream, until it is done or its client goes; then its sequence is forgotten."""
    await websocket.accept()
    talk = Talk(websocket, service)
    stop = asyncio.create_task(service.admission.aborted.wait())
    held = asyncio.create_task(talk.hold())
    try:
        await asyncio.wait({held, stop}, return_when=asyncio.FIRST_COMPLETED)
        code = DONE if held.done() else RESTARTING
        if held.done():
            held.result()
        with suppress(WebSocketDisconnect, OSError, RuntimeError):  # it may have gone already
            await websocket.close(code)
    finally:
        for task in (held, stop):
            task.cancel()
        await asyncio.gather(held, stop, return_exceptions=True)


class Talk:
    """One connection with one stream."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._socket, self._service = websocket, service
        self._waiting = 0  # characters of the source that have come, and are not taken yet
        self._coming: asyncio.Queue[SourceAppend | SourceEnd] = asyncio.Queue()

    async def hold(self) -> None:
        """Open the stream, then listen and write until either ends."""
        try:
            opening = await self._opening()
            stream = await self._open(opening)
        except WebSocketDisconnect:
            return
        except EvenhandError as error:
            await self._send("error", **error.wire())
            return
        try:
            with self._service.admission.take():
                await self._run(stream)
        except EvenhandError as error:
            with suppress(WebSocketDisconnect, OSError, RuntimeError):
                await self._send("error", **error.wire())
        except (WebSocketDisconnect, OSError):
            log.info("client of a stream went away; its work is stopped")
        except Exception:
            log.exception("a stream failed")
            with suppress(WebSocketDisconnect, OSError, RuntimeError):
                await self._send("error", **unexpected().wire())
        finally:
            await stream.close()

    async def _opening(self) -> OpenFrame:
        idle = self._service.settings.stream_idle_seconds
        try:
            async with asyncio.timeout(idle):
                frame = await self._frame()
        except TimeoutError:
            raise PlanError(
                f"stream must be opened within {idle:g} seconds, got nothing; connect again",
                status=408,
            ) from None
        if not isinstance(frame, OpenFrame):
            raise PlanError(
                "first frame must be of type open, got another; open the stream", param="type"
            )
        return frame

    async def _open(self, frame: OpenFrame) -> Stream:
        frame.refuse()
        service = self._service
        name, stages = resolve(service, frame.model, frame.stages)
        stage = stage_of(parse_stages(stages or []))
        idle = service.settings.stream_idle_seconds
        sampling = frame.sampling(max_tokens=frame.max_tokens)
        stream = await open_stream(service.engine, stage, frame.prompt, sampling, idle=idle)
        warnings = {"warnings": frame.warnings} if frame.warnings else {}
        stages_said = [{"stage": stage.stage, **stage.model_dump(exclude_unset=True)}]
        await self._send("opened", model=name, stages=stages_said, **warnings)
        return stream

    async def _run(self, stream: Stream) -> None:
        """Write until the target ends, the client cancels or goes, or something is refused."""
        tasks = [
            asyncio.create_task(work)
            for work in (self._write(stream), self._listen(), self._feed(stream))
        ]
        writing, listening, _ = tasks
        try:
            pending = {*tasks}
            while writing in pending and listening in pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, stream: Stream) -> None:
        """Send the target; who reads slowly has nothing computed that he has no room for."""
        async for said in stream:
            if isinstance(said, Delta):
                await self._send("target.delta", text=said.text, source_words_read=said.read)
                continue
            await self._send("usage", **stream.facts)
            await self._send("done", finish_reason=said.finish_reason, latency=said.latency)

    async def _listen(self) -> None:
        """Take frames until the client cancels; what is not taken yet is bounded (PlanError)."""
        most = self._service.settings.max_body_bytes
        while not isinstance(frame := await self._frame(), Cancel):
            if isinstance(frame, OpenFrame):
                raise PlanError(
                    "stream must be opened once, got a second opening; connect again for another",
                    param="type",
                )
            assert isinstance(frame, SourceAppend | SourceEnd), "there are no other frames"
            if isinstance(frame, SourceAppend):
                self._waiting += len(frame.text) + FRAME
            if self._waiting > most:
                raise PlanError(
                    f"source must not be more than {most} characters ahead of what is read, got "
                    f"{self._waiting}; wait for more of the target",
                    status=413,
                    code="request_too_large",
                )
            self._coming.put_nowait(frame)
        await self._send("done", finish_reason="cancelled")

    async def _feed(self, stream: Stream) -> None:
        while isinstance(frame := await self._coming.get(), SourceAppend):
            await stream.append(frame.text)
            self._waiting -= len(frame.text) + FRAME
        await stream.end()
        frame = await self._coming.get()  # nothing may follow the end
        raise PlanError("source must have ended once, got more behind its end; open another stream")

    async def _frame(self) -> Body:
        message = await self._socket.receive()
        if message["type"] != "websocket.receive":
            raise WebSocketDisconnect
        return frames.read(frames.raw(message), FRAMES, self._service.settings)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._socket.send_json({"type": kind, **fields})
