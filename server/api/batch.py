"""`POST /v1/judge/batch`: one judge request per line, one reply per line as each is done."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import PlainValidator
from pydantic_core import from_json
from starlette.types import Receive

from server.admission import Admission, Place
from server.api.common import Service, service, unexpected
from server.api.judge import judging
from server.api.spool import Spool, too_large
from server.api.stream import StreamedReply
from server.concurrency import completed
from server.errors import EvenhandError, PlanError
from server.judge.judging import Judging
from server.judge.wire import MOST_ID, JudgeBody
from server.protocol.common import parse, shown

router = APIRouter()
log = logging.getLogger("evenhand")

MEDIA_TYPE = "application/x-ndjson"
TAKEN = (MEDIA_TYPE, "application/jsonl", "application/jsonlines", "application/json-lines")


def _name(value: object) -> str | int | None:
    """Read what the caller calls a line."""
    if value is None or (_plain(value) and len(str(value)) > 0):
        return value
    raise ValueError(
        f"id must be a string or a whole number of 1 to {MOST_ID} characters, got {shown(value)}; "
        "send one, or leave it out"
    )


def _plain(value: object) -> TypeGuard[str | int]:
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return known and len(str(value)) <= MOST_ID


class Line(JudgeBody):
    """One line of a batch: a judge request, and what the caller calls it."""

    id: Annotated[str | int | None, PlainValidator(_name)] = None


@dataclass(frozen=True, slots=True)
class Checked:
    """One request of a batch that can run, or what is wrong with it.

    index  line of the body, counted from 0
    """

    id: str | int | None
    index: int
    judging: Judging | EvenhandError


@router.post("/v1/judge/batch")
async def batch(request: Request, service: Annotated[Service, Depends(service)]) -> Response:
    """Judge every line; a faulty one gets an error, and the others go on."""
    settings = service.settings
    _check_head(request, settings.max_batch_bytes)
    place = service.admission.take()
    spool = Spool(
        in_memory=settings.max_body_bytes,
        most=settings.max_batch_bytes,
        most_line=settings.max_body_bytes,
    )
    return LineStream(spool, service, place)


def _check_head(request: Request, most: int) -> None:
    """Refuse what the headers show to be impossible: 415 another type, 413 too large."""
    declared = request.headers.get("content-type", MEDIA_TYPE).partition(";")[0].strip()
    if declared.lower() not in TAKEN:
        raise PlanError(
            f"content-type must be {MEDIA_TYPE}, got {declared[:100]}; "
            f"send the header `content-type: {MEDIA_TYPE}`",
            status=415,
        )
    size = request.headers.get("content-length", "")
    if size.isdecimal() and int(size[:20]) > most:
        raise too_large(most)


class LineStream(StreamedReply):
    """Lines instead of events; the body is read while they are sent."""

    media_type = MEDIA_TYPE

    def __init__(self, spool: Spool, service: Service, place: Place) -> None:
        super().__init__(
            _replies(spool, service),
            close=self._close,
            admission=service.admission,
            place=place,
        )
        self._spool = spool

    async def watch(self, receive: Receive) -> None:
        """Read the body, and return when the client has gone."""
        await self._spool.fill(receive)

    def farewell(self) -> bytes:
        """Return what is said last when the server aborts."""
        return _fault(None, None, Admission.stopping())

    async def _close(self) -> None:
        self._spool.close()


async def _replies(spool: Spool, service: Service) -> AsyncGenerator[bytes, None]:
    """Yield a line per request, in order of completion."""

    async def answer(asked: Checked) -> bytes:
        if isinstance(asked.judging, EvenhandError):
            return _fault(asked.id, asked.index, asked.judging)
        try:
            reply = await asked.judging.run(service.engine)
        except EvenhandError as error:
            return _fault(asked.id, asked.index, error)
        except Exception:
            log.exception("line %d of a batch failed", asked.index)
            return _fault(asked.id, asked.index, unexpected())
        name = reply["id"] if asked.id is None else asked.id
        return _line({**reply, "id": name, "index": asked.index})

    at_once = service.settings.batch_concurrency
    async with aclosing(completed(_asked(spool, service), answer, at_once)) as replies:
        async for line in replies:
            yield line


async def _asked(spool: Spool, service: Service) -> AsyncIterator[Checked]:
    """Yield the requests as they come, each checked as `/v1/judge` checks it."""
    seen: set[str] = set()
    index = 0
    try:
        async for line in spool.lines():
            if line.strip():
                yield _checked(line, index, seen, service)
            index += 1
    except EvenhandError as error:
        yield Checked(None, index, error)


def _checked(line: bytes, index: int, seen: set[str], service: Service) -> Checked:
    """Return what one line asks; its id is then among those seen."""
    try:
        most = service.settings.max_body_bytes
        if len(line) > most:
            raise PlanError(
                f"line must be at most {most} bytes, got more; send less text",
                status=413,
                code="request_too_large",
            )
        body = parse(line, Line, strict=service.settings.strict)
        checked = judging(service, body)
        if body.id is not None and str(body.id) in seen:
            raise PlanError(
                f"id must differ from those of other lines, got {shown(body.id)} again; rename it",
                param="id",
            )
    except EvenhandError as error:
        return Checked(_id(line), index, error)
    except Exception:
        log.exception("line %d of a batch could not be checked", index)
        return Checked(_id(line), index, unexpected())
    if body.id is not None:
        seen.add(str(body.id))
    return Checked(body.id, index, checked)


def _id(line: bytes) -> str | int | None:
    """Return the id of a faulty line, if it can be read."""
    try:
        name = from_json(line).get("id")
        return name if _plain(name) else None
    except (ValueError, AttributeError):  # no JSON, no object, or a number without end
        return None


def _fault(name: str | int | None, index: int | None, error: EvenhandError) -> bytes:
    """Return the line of a request that failed."""
    return _line({"id": name, "index": index, **error.wire()})


def _line(fields: dict[str, Any]) -> bytes:
    """Return a line, in ASCII: some clients end a line at U+2028, U+0085 or a form feed too."""
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode() + b"\n"
