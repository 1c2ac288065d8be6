"""The way of a generating request: body, plan, place, work, and its reply whole or streamed."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from server.api.common import Service, resolve, unexpected, until_disconnect
from server.api.stream import EventStream
from server.chunk import Chunk
from server.concurrency import closed
from server.errand import Errand
from server.errors import EngineError, EvenhandError, PlanError
from server.job import Job, Reply
from server.pipeline import compose
from server.prompt import FillPrompt, Prompt, TextPrompt
from server.protocol import sse
from server.protocol.chat import ChatBody
from server.protocol.completions import CompletionBody
from server.protocol.documents import check_count
from server.protocol.fim import FimBody, left_out
from server.protocol.infill import InfillBody
from server.protocol.replies import Tally, Writer, evenhand, merged

log = logging.getLogger("evenhand")

Run = Callable[[Job], Awaitable[Reply]]
TextBody = CompletionBody | ChatBody | FimBody
B = TypeVar("B", bound=CompletionBody | ChatBody | FimBody | InfillBody)


@dataclass(frozen=True, slots=True)
class Answering:
    """A request that can run, and who writes its answer.

    stages    what is told of them; None = the plan's
    warnings  told besides those about the body
    """

    errand: Errand[Any]
    writer: Writer
    stages: list[dict[str, Any]] | None = None
    warnings: tuple[str, ...] = ()

    def tally(self) -> Tally:
        """Return an empty tally of the request's choices."""
        job = self.errand.job
        return Tally(len(job.prompts), job.sampling.n)

    def evenhand(self, tally: Tally, reply: Reply) -> dict[str, Any]:
        """Return the reply's `evenhand` object."""
        notes = {**reply.notes, **tally.notes()}
        stages = self.errand.plan.wire() if self.stages is None else self.stages
        warnings = [*self.errand.body.warnings, *self.warnings, *left_out(notes)]
        return evenhand(stages, notes, warnings)


async def answer(request: Request, service: Service, body: TextBody, writer: Writer) -> Response:
    """Answer a request, whole or as a stream."""
    answering = Answering(errand_of(service, body), writer)
    job = answering.errand.job
    asked = answering.errand.plan.asked(job).work
    client = service.answerer(request, body.user, body.prompt_cache_key)
    run = compose(answering.errand.plan, client)
    await service.engine.check(asked)
    return await respond(request, service, answering, run)


async def respond(request: Request, service: Service, answering: Answering, run: Run) -> Response:
    """Run what has been checked, and return its reply, whole or as a stream."""
    job, streams = answering.errand.job, answering.errand.body.stream
    events = partial(_events, answering) if streams else None
    return await placed(
        request, service, partial(run, job), partial(_whole, answering, run), events
    )


async def placed(
    request: Request,
    service: Service,
    run: Callable[[], Awaitable[Reply]],
    whole: Callable[[], Awaitable[dict[str, Any]]],
    events: Callable[[Reply], AsyncGenerator[bytes, None]] | None,
) -> Response:
    """Take a place, and return a reply: its events, or, where there are none, all of it at once."""
    place = service.admission.take()
    try:
        if events is None:
            found = await until_disconnect(request, whole())
            place.release()
            return JSONResponse(found)
        reply = await until_disconnect(request, run())
        return EventStream(
            events(reply),
            close=partial(close_reply, reply),
            admission=service.admission,
            place=place,
            silence=service.settings.keep_alive_seconds,
        )
    except BaseException:
        place.release()
        raise


def errand_of(service: Service, body: B) -> Errand[B]:
    """Check everything that can be checked before the request takes a place."""

    def ready(job: Job) -> Job:
        _check_counts(service, body, job.prompts)
        return job.but(prompts=_ordered(job.prompts, service.settings.fim_order))

    name, stages = resolve(service, body.model, body.stages)
    errand = Errand.of(body, service.engine, name, stages or [], ready)
    # order must not matter to the last bit under load either, unless the caller prefers speed
    alone = errand.plan.order_free if body.deterministic is None else body.deterministic
    return replace(errand, job=errand.job.but(deterministic=alone))


def _ordered(
    prompts: tuple[Prompt, ...], order: Literal["auto", "psm", "spm"]
) -> tuple[Prompt, ...]:
    """Return prompts in the operator's order, where they are to be filled in and name none."""
    if order == "auto":
        return prompts
    return tuple(
        replace(prompt, order=order)
        if isinstance(prompt, FillPrompt | TextPrompt) and prompt.order is None
        else prompt
        for prompt in prompts
    )


def _check_counts(
    service: Service, body: TextBody | InfillBody, prompts: tuple[Prompt, ...]
) -> None:
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


async def _whole(answering: Answering, run: Run) -> dict[str, Any]:
    """Run the job and return the whole reply."""
    reply, tally, chunks = await run(answering.errand.job), answering.tally(), []
    async with closing(reply) as stream:
        async for chunk in stream:
            tally.add(chunk)
            chunks.append(chunk)
    if not tally.complete:
        raise EngineError("engine must finish every choice, got fewer; this is a fault of it")
    return {
        **answering.errand.head.wire(answering.writer.kind),
        "choices": [answering.writer.whole(chunk) for chunk in merged(chunks)],
        "usage": tally.usage(),
        "evenhand": answering.evenhand(tally, reply),
    }


async def _events(answering: Answering, reply: Reply) -> AsyncGenerator[bytes, None]:
    """Yield the reply's events; a failure is an event too. `[DONE]` ends both."""
    try:
        async with aclosing(_pieces(answering, reply)) as pieces:
            async for piece in pieces:
                yield sse.event(piece)
    except EvenhandError as error:
        yield sse.event(error.wire())
    except Exception:
        log.exception("stream %s failed", answering.errand.head.id)
        yield sse.event(unexpected().wire())
    yield sse.DONE


async def _pieces(answering: Answering, reply: Reply) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the objects of a stream; the last one carries `evenhand`."""
    errand, writer, tally = answering.errand, answering.writer, answering.tally()
    options = errand.body.stream_options
    usage_last = bool(options and options.include_usage)
    usage_always = bool(options and options.continuous_usage_stats)
    head = errand.head.wire(writer.piece_kind)

    def piece(choice: dict[str, Any]) -> dict[str, Any]:
        said = {**head, "choices": [choice]}
        if usage_last or usage_always:
            said["usage"] = tally.usage() if usage_always else None
        return said

    for index in range(tally.count):
        if (choice := writer.opening(index)) is not None:
            yield piece(choice)
    async with closing(reply) as stream:
        async for chunk in stream:
            tally.add(chunk)
            if (choice := writer.piece(chunk)) is not None:
                last = tally.complete and not usage_last
                extra = {"evenhand": answering.evenhand(tally, reply)} if last else {}
                yield {**piece(choice), **extra}
    if usage_last:
        ending = {"usage": tally.usage(), "evenhand": answering.evenhand(tally, reply)}
        yield {**head, "choices": [], **ending}


@asynccontextmanager
async def closing(reply: Reply) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Close the reply's chunks at the end, which stops the engine's work."""
    try:
        yield reply.text
    finally:
        await close_reply(reply)


async def close_reply(reply: Reply) -> None:
    """Stop the work behind a reply, which nobody reads any more."""
    await closed(reply.chunks)
