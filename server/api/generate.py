"""The way of a generating request: body, plan, place, work, and its reply whole or streamed."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from server.api.common import Service, resolve, unexpected, until_disconnect
from server.api.stream import EventStream
from server.chunk import Chunk
from server.errors import EngineError, EvenhandError, PlanError
from server.job import Job, Reply
from server.pipeline import Plan, compose, plan
from server.prompt import Prompt
from server.protocol import sse
from server.protocol.chat import ChatBody
from server.protocol.completions import CompletionBody
from server.protocol.documents import check_count
from server.protocol.replies import Form, Head, Tally, evenhand, fingerprint, merged

log = logging.getLogger("evenhand")

Run = Callable[[Job], Awaitable[Reply]]
Asked = CompletionBody | ChatBody


@dataclass(frozen=True, slots=True)
class Errand:
    """One request on its way through: what was asked, and what is said of it."""

    body: Asked
    job: Job
    plan: Plan
    head: Head
    form: Form

    def tally(self) -> Tally:
        """Return an empty tally of the request's choices."""
        return Tally(len(self.job.prompts), self.job.sampling.n)

    def evenhand(self, tally: Tally, reply: Reply) -> dict[str, Any]:
        """Return the reply's `evenhand` object."""
        notes = {**reply.notes, **tally.notes()}
        return evenhand(self.plan.wire(), notes, self.body.warnings)


async def answer(request: Request, service: Service, body: Asked, form: Form) -> Response:
    """Answer a request, whole or as a stream."""
    errand = _errand(service, body, form)
    run = compose(errand.plan, service.engine)
    place = service.admission.take()
    try:
        if not body.stream:
            whole = await until_disconnect(request, _whole(errand, run))
            place.release()
            return JSONResponse(whole)
        reply = await until_disconnect(request, run(errand.job))
        return EventStream(
            _events(errand, reply),
            close=partial(_close, reply),
            admission=service.admission,
            place=place,
            keep_alive=service.settings.keep_alive_seconds,
        )
    except BaseException:
        place.release()
        raise


def _errand(service: Service, body: Asked, form: Form) -> Errand:
    """Check everything that can be checked before the request takes a place."""
    body.refuse()
    name, stages = resolve(service, body.model, body.stages)
    prompts = body.prompts()
    _check_counts(service, body, prompts)
    prefix = "chatcmpl" if isinstance(body, ChatBody) else "cmpl"
    head = Head(
        id=f"{prefix}-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=name,
        fingerprint=fingerprint(service.engine.info),
    )
    job = Job(model=name, sampling=body.asked(), prompts=prompts, id=head.id)
    planned = plan(stages or [], engine=service.engine, job=job)
    # order must not matter to the last bit under load either, unless the caller prefers speed
    alone = planned.order_free if body.deterministic is None else body.deterministic
    return Errand(body, job.but(deterministic=alone), planned, head, form)


def _check_counts(service: Service, body: Asked, prompts: tuple[Prompt, ...]) -> None:
    settings = service.settings
    check_count(prompts, len(body.documents or ()), settings.max_documents)
    choices = len(prompts) * body.choices
    if len(prompts) > settings.max_prompts:
        raise PlanError(
            f"prompts must number at most {settings.max_prompts}, got {len(prompts)}; "
            "send them in several requests",
            param="prompt",
        )
    if choices > settings.max_choices:
        raise PlanError(
            f"prompts times n must be at most {settings.max_choices}, got {choices}; "
            "send them in several requests",
            param="n",
        )


async def _whole(errand: Errand, run: Run) -> dict[str, Any]:
    """Run the job and return the whole reply."""
    reply, tally, chunks = await run(errand.job), errand.tally(), []
    async with _closing(reply) as stream:
        async for chunk in stream:
            tally.add(chunk)
            chunks.append(chunk)
    if not tally.complete:
        raise EngineError("engine must finish every choice, got fewer; this is a fault of it")
    return {
        **errand.head.wire(errand.form.kind),
        "choices": [errand.form.whole(chunk) for chunk in merged(chunks)],
        "usage": tally.usage(),
        "evenhand": errand.evenhand(tally, reply),
    }


async def _events(errand: Errand, reply: Reply) -> AsyncGenerator[bytes, None]:
    """Yield the reply's events; a failure is an event too. `[DONE]` ends both."""
    try:
        async with aclosing(_pieces(errand, reply)) as pieces:
            async for piece in pieces:
                yield sse.event(piece)
    except EvenhandError as error:
        yield sse.event(error.wire())
    except Exception:
        log.exception("stream %s failed", errand.head.id)
        yield sse.event(unexpected().wire())
    yield sse.DONE


async def _pieces(errand: Errand, reply: Reply) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the objects of a stream; the last one carries `evenhand`."""
    options, form, tally = errand.body.stream_options, errand.form, errand.tally()
    usage_last = bool(options and options.include_usage)
    usage_always = bool(options and options.continuous_usage_stats)
    head = errand.head.wire(form.piece_kind)

    def piece(choice: dict[str, Any]) -> dict[str, Any]:
        said = {**head, "choices": [choice]}
        if usage_last or usage_always:
            said["usage"] = tally.usage() if usage_always else None
        return said

    for index in range(tally.count):
        if (choice := form.opening(index)) is not None:
            yield piece(choice)
    async with _closing(reply) as stream:
        async for chunk in stream:
            tally.add(chunk)
            if (choice := form.piece(chunk)) is not None:
                last = tally.complete and not usage_last
                extra = {"evenhand": errand.evenhand(tally, reply)} if last else {}
                yield {**piece(choice), **extra}
    if usage_last:
        ending = {"usage": tally.usage(), "evenhand": errand.evenhand(tally, reply)}
        yield {**head, "choices": [], **ending}


@asynccontextmanager
async def _closing(reply: Reply) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Close the reply's chunks at the end, which stops the engine's work."""
    if reply.chunks is None:
        raise EngineError("stages must answer with text, got a reply without; this is a fault")
    try:
        yield reply.chunks
    finally:
        await _close(reply)


async def _close(reply: Reply) -> None:
    close = getattr(reply.chunks, "aclose", None)
    if close is not None:
        await close()
