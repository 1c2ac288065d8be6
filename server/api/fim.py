"""`POST /infill` and `POST /v1/fim/completions`: what editors ask."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from server.api.common import Service, read, service, unexpected
from server.api.generate import Run, answer, closing, errand_of, placed
from server.chunk import LEFT_OUT, Chunk
from server.errand import Errand
from server.errors import EvenhandError
from server.job import Reply
from server.pipeline import compose
from server.protocol import sse
from server.protocol.fim import FimBody, FimWriter, left_out
from server.protocol.infill import InfillBody
from server.protocol.infill_reply import InfillWriter
from server.protocol.replies import Tally, evenhand
from server.text.lines import LineStop

router = APIRouter()
log = logging.getLogger("evenhand")


@router.post("/v1/fim/completions")
async def fim_completions(
    request: Request, service: Annotated[Service, Depends(service)]
) -> Response:
    """Fill in between, as Mistral's API does."""
    body = await read(request, FimBody)
    return await answer(request, service, body, FimWriter(scored=False))


@router.post("/infill")
async def infill(request: Request, service: Annotated[Service, Depends(service)]) -> Response:
    """Fill in between, as llama.cpp's server does."""
    body = await read(request, InfillBody)
    errand = errand_of(service, body)
    filling = Infilling(errand, InfillWriter(body, errand.job.sampling, errand.head.model))
    await service.engine.check(errand.plan.asked(errand.job).work)
    names = body.id_slot, body.user, body.prompt_cache_key
    client = service.engine if body.cache_prompt is False else service.answerer(request, *names)
    run = compose(errand.plan, client)
    events = partial(_events, filling) if body.stream else None
    return await placed(
        request, service, partial(run, errand.job), partial(filling.whole, run), events
    )


@dataclass(slots=True)
class Infilling:
    """A request of `/infill` that can run, and what has come of it."""

    errand: Errand[InfillBody]
    writer: InfillWriter
    tally: Tally = field(default_factory=partial(Tally, 1, 1))
    last: Chunk = field(default_factory=partial(Chunk, 0))

    async def whole(self, run: Run) -> dict[str, Any]:
        """Run the job and return the whole reply."""
        reply = await run(self.errand.job)
        async with closing(reply) as chunks:
            async for _ in self.texts(chunks):
                pass
        return self.ending(self.writer.text, reply)

    async def texts(self, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[str, None]:
        """Yield the text as it comes, up to where its lines end it."""
        body = self.errand.body
        lines = LineStop(body.n_indent or 0, body.seconds)
        async for chunk in chunks:
            self.tally.add(chunk)
            self.last = chunk
            text = lines.feed(chunk.text)
            self.writer.met(text)
            if text:
                yield text
            if lines.stopped:
                return
        if text := lines.end():
            self.writer.met(text)
            yield text

    def ending(self, content: str, reply: Reply) -> dict[str, Any]:
        """Return the reply's last object, with what of the text was not sent yet."""
        notes = {**reply.notes, **self.tally.notes()}
        warnings = [*self.errand.body.warnings, *left_out(notes)]
        return self.writer.last(
            content,
            self.last,
            self.tally.usage(),
            truncated=LEFT_OUT in notes,
            evenhand=evenhand(self.errand.plan.wire(), notes, warnings),
        )


async def _events(filling: Infilling, reply: Reply) -> AsyncGenerator[bytes, None]:
    """Yield the reply's events; a failure is the last one."""
    try:
        async with closing(reply) as chunks, aclosing(filling.texts(chunks)) as texts:
            async for text in texts:
                yield sse.event(filling.writer.piece(text, filling.tally.usage()))
        yield sse.event(filling.ending("", reply))
    except EvenhandError as error:
        yield sse.event(error.wire())
    except Exception:
        log.exception("stream %s failed", filling.errand.head.id)
        yield sse.event(unexpected().wire())
