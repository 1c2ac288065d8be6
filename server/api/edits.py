"""`/v1/edit-sessions`: texts that stay, are edited, and are asked about at a cursor."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from server.api.common import Service, authorised, read, resolve, service
from server.api.generate import Answering, respond
from server.chunk import Chunk
from server.errand import Errand
from server.errors import PlanError
from server.job import Job, Reply, Sampling
from server.pipeline import Plan, compose, plan
from server.prompt import Part, Prompt, TextPrompt
from server.protocol.edits import CompleteBody, EditBody, OpenBody, PlaceBody
from server.protocol.replies import Head, fingerprint
from server.protocol.writers import ChatWriter, CompletionWriter
from server.sessions.asking import Ask, Maker
from server.sessions.document import Cursor
from server.sessions.kept import Kept
from server.sessions.running import Running
from server.sessions.session import EditSession
from server.sessions.versions import Applied
from server.stages.pie import Pie

router = APIRouter()

PATH = "/v1/edit-sessions"
# the recipe: 32 kept tokens behind every edit, and the twentieth that the cursor reads most
PIE = Pie().reading

Owner = Annotated[str, Depends(authorised)]
Given = Annotated[Service, Depends(service)]


@router.post(PATH)
async def make(request: Request, owner: Owner, service: Given) -> Response:
    """Make a session."""
    body = await read(request, OpenBody)
    document = await asyncio.to_thread(body.document)
    if document is None:
        raise PlanError("text or messages must be given, got neither; send one", param="text")
    name, stages = resolve(service, body.model, body.stages)
    kept, maker = await _kept(service, owner, name, stages)
    session = service.sessions.make(maker, document, kept)
    told = {"id": session.id, "object": "edit_session", "model": name, "version": 0}
    warnings = [*body.warnings, *maker.warnings]
    said = {**told, "hash": document.hash, "stages": list(maker.stages)}
    return JSONResponse({**said, "warnings": warnings} if warnings else said)


@router.patch(PATH + "/{name}")
async def edit(name: str, request: Request, owner: Owner, service: Given) -> dict[str, Any]:
    """Change a session's text."""
    body = await read(request, EditBody)
    session = service.sessions.find(name, owner)
    revision = await asyncio.to_thread(body.revision) if body.changes is None else body.revision()
    applied = await session.put(revision)
    if body.wait:
        await session.settle()
    said = acknowledged(session, applied)
    return {**said, "warnings": body.warnings} if body.warnings else said


@router.get(PATH + "/{name}")
async def show(name: str, owner: Owner, service: Given) -> dict[str, Any]:
    """Show a session."""
    session = service.sessions.find(name, owner)
    document = session.versions.document
    pairs = zip(document.roles, document.texts, strict=False)
    messages = [{"role": role, "content": str(text)} for role, text in pairs]
    return {
        "id": session.id,
        "object": "edit_session",
        "model": session.maker.model,
        **({"messages": messages} if document.chat else {"text": str(document.texts[0])}),
        "version": session.versions.version,
        "hash": document.hash,
        "stages": list(session.maker.stages),
        **state(session),
        "warnings": list(session.maker.warnings),
    }


@router.delete(PATH + "/{name}")
async def drop(name: str, owner: Owner, service: Given) -> dict[str, Any]:
    """End a session."""
    await service.sessions.drop(service.sessions.find(name, owner))
    return {"id": name, "object": "edit_session", "deleted": True}


@router.post(PATH + "/{name}/complete")
async def complete(name: str, request: Request, owner: Owner, service: Given) -> Response:
    """Answer at a place of a session's text."""
    body = await read(request, CompleteBody)
    session = service.sessions.find(name, owner)
    await session.reached(body.version)
    asked = asking(service, session, body)

    async def run(job: Job) -> Reply:
        running = session.ask(asked.ask)
        try:
            await running.begun()
        except BaseException:
            await running.aclose()
            raise
        return Reply(chunks=running, notes=asked.notes(running))

    return await respond(request, service, asked.answering, run)


@router.post(PATH + "/{name}/fidelity")
async def fidelity(name: str, request: Request, owner: Owner, service: Given) -> dict[str, Any]:
    """Compare what has been edited with a new reading, at a place."""
    body = await read(request, PlaceBody)
    session = service.sessions.find(name, owner)
    with service.admission.take():
        version, cursor = session.versions.version, _cursor(session, body)
        found = await session.fidelity(cursor, fill=body.fim == "auto")
    return {"id": name, "object": "edit_session.fidelity", "version": version, **asdict(found)}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to a session that can be answered."""

    session: EditSession
    version: int
    ask: Ask
    answering: Answering

    def notes(self, running: Running) -> dict[str, Any]:
        """Return what is told of the session once the answer has begun."""
        notes: dict[str, Any] = {"session": {"id": self.session.id, "version": self.version}}
        read = self.session.kept.read
        if read is not None and running.prompt_tokens:
            notes["edit"] = asdict(read.edit)
        return notes


def asking(service: Service, session: EditSession, body: CompleteBody) -> Asked:
    """Check a question to a session (PlanError); nothing has run then."""
    body.refuse()
    session.versions.check(body.version)
    if body.deterministic and not session.kept.refusal:
        raise PlanError(
            "deterministic must be left out where a session keeps a cache, got true; make the "
            "session with stages: []",
            param="deterministic",
        )
    document, engine, maker = session.versions.document, service.engine, session.maker
    kind = "chatcmpl" if document.chat else "cmpl"
    numbers = int(time.time()), maker.model, fingerprint(engine.info)
    job = body.job(head := Head(f"{kind}-{secrets.token_hex(12)}", *numbers))
    cursor = _cursor(session, body)
    told = document.prompt(cursor, fill=False)  # without what stands behind, as not every model is
    job = job.but(prompts=(told,), deterministic=bool(body.deterministic))

    async def whole(prompt: Prompt) -> AsyncIterator[Chunk]:
        asked = job.but(prompts=(prompt,))
        made = plan(list(maker.stages), engine=engine, job=asked)
        await engine.check(made.asked(asked).work)
        return (await compose(made, engine)(asked)).text

    written = ChatWriter if document.chat else CompletionWriter
    writer = written(scored=body.logprobs is not None, as_ids=bool(body.return_tokens_as_token_ids))
    stages = [dict(stage) for stage in maker.stages]
    answering = Answering(Errand(body, job, Plan(()), head), writer, stages, maker.warnings)
    after = None if body.deadline_ms is None else body.deadline_ms / 1000
    ask = Ask(
        version := session.versions.version,
        document,
        cursor,
        job.sampling,
        whole,
        fill=body.fim == "auto",
        continued=body.continue_final_message is True,
        exact=body.exact,
        deadline=None if after is None else asyncio.get_running_loop().time() + after,
    )
    return Asked(session, version, ask, answering)


def acknowledged(session: EditSession, applied: Applied) -> dict[str, Any]:
    """Return what is told of an edit that was applied."""
    return {"version": applied.version, "hash": applied.hash, **state(session)}


def state(session: EditSession) -> dict[str, Any]:
    """Return what the model has read of a session by now, and what the last edit of that cost."""
    read = session.kept.read
    if read is None:
        return {"tokens": None, "stale_fraction": None, "read_version": None}
    tokens = asdict(read.edit)
    stale = tokens.pop("stale_fraction")
    return {"tokens": tokens, "stale_fraction": stale, "read_version": read.version}


def _cursor(session: EditSession, body: PlaceBody) -> Cursor:
    """Return the place that is asked about (PlanError)."""
    document = session.versions.document
    if body.position is not None and body.offset is not None:
        raise PlanError(
            "position and offset cannot both be given, got both; send one", param="position"
        )
    place = body.offset if body.position is None else body.position.position
    if document.chat and place is not None:
        raise PlanError(
            "position and offset must be left out of a chat, which is answered at its end, got "
            "one; leave it out",
            param="position" if body.offset is None else "offset",
        )
    return document.cursor(place, body.encoding)


async def _kept(
    service: Service, owner: str, name: str, stages: list[dict[str, Any]] | None
) -> tuple[Kept, Maker]:
    """Return what the engine keeps for a session with these stages (PlanError)."""
    if stages is None:
        kept = await Kept.of(service.engine, PIE)
        if not kept.refusal:
            return kept, Maker(owner, name, ({"stage": "pie"},))
        warning = f"the whole text is read for every answer, since nothing is kept: {kept.refusal}"
        return kept, Maker(owner, name, warnings=(warning,))
    job = Job(name, Sampling(), prompts=(TextPrompt((Part(" "),)),), kept=True)
    made = plan(stages, engine=service.engine, job=job)
    reading, maker = made.asked(job).reading, Maker(owner, name, tuple(made.wire()))
    if reading is None or reading.name != PIE.name:
        return Kept(service.engine, None, f"no stage is {PIE.name!r}"), maker
    kept = await Kept.of(service.engine, reading)
    if kept.refusal:
        raise PlanError(
            f"stage {PIE.name!r} must have a model that keeps what it reads, got {kept.refusal}; "
            "leave the stage out",
            param="stages",
        )
    return kept, maker
