"""`RemoteEngine`: passes jobs on to another server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from openai import AsyncOpenAI, AsyncStream

from server.chunk import Chunk
from server.engines.base import Ability, ModelInfo, Session
from server.engines.remote.access import Access
from server.engines.remote.body import Ask
from server.engines.remote.discovery import Found, Logprobs, discover
from server.engines.remote.reading import Reader
from server.engines.remote.stream import Stream
from server.errors import EngineError, PlanError
from server.job import ReadingSpec, Work
from server.prompt import ChatAbility


class RemoteEngine:
    """A model on another server, reached through OpenAI's client; for one event loop.

    found        what that server has
    name         under which it is served here
    concurrency  requests at once; the others wait
    """

    def __init__(self, access: Access, found: Found, *, name: str, concurrency: int) -> None:
        self._access = access
        self._dialect = found.dialect
        self._client = AsyncOpenAI(**access.options())
        self._places = asyncio.Semaphore(concurrency)
        self._alive = True
        attention = f"the model runs on another server, {access.shown}"
        logprobs = {} if found.refusal is None else {"logprobs": found.refusal}
        abilities: set[Ability] = {"text"} if found.refusal else {"text", "logprobs"}
        # that a system message is taken is OpenAI's protocol; that one is continued is not
        chat: set[ChatAbility] = {"system", "continued"} if self._dialect.continues else {"system"}
        root = f"{access.shown}/models/{found.dialect.model}"
        self._info = ModelInfo(
            id=name,
            root=root,
            max_model_len=found.context,
            abilities=frozenset(abilities),
            refusals={"attention": attention, **logprobs},
            created=int(time.time()),
            weights=f"{root} {found.said}",
            chat=frozenset(chat),
            template=found.template,
        )

    @classmethod
    def load(
        cls,
        access: Access,
        *,
        model: str | None = None,
        name: str | None = None,
        max_model_len: int | None = None,
        concurrency: int = 8,
        logprobs: Logprobs = "auto",
    ) -> RemoteEngine:
        """Ask the server what it has; slow, so call it off the event loop.

        model          name that it knows; None = the first that it lists
        name           served name; None = the model's
        max_model_len  tokens; None = what it says
        logprobs       whether it reports log-probabilities; auto = find out by asking for a token
        raises         EngineError, PlanError  as it is not there, or lacks the model
        """
        found = discover(access, model, logprobs)
        if max_model_len is not None:
            found = replace(found, context=max_model_len)
        return cls(access, found, name=name or found.dialect.model, concurrency=concurrency)

    @property
    def info(self) -> ModelInfo:
        """Return the model's facts."""
        return self._info

    @property
    def offers(self) -> frozenset[Ability]:
        """Return what stages may need of this engine."""
        return self._info.abilities

    @property
    def alive(self) -> bool:
        """Return whether it is open."""
        return self._alive

    def refusal(self, reading: ReadingSpec) -> str | None:
        """Return why the model cannot be read so: nobody gets inside it from here."""
        return self._info.refusals["attention"]

    async def check(self, work: Work) -> None:
        """Refuse what cannot be asked (PlanError); what does not fit the other server says."""
        self._check(work)
        for prompt in work.prompts:
            self._dialect.ask(prompt, work.sampling, deterministic=work.deterministic)

    async def open(self, reading: ReadingSpec | None = None) -> Session:
        """Raise PlanError: the other server forgets a sequence once it has answered."""
        raise PlanError(
            "engine must keep sequences for a session, got one on another server; "
            "send the whole text each time"
        )

    async def generate(self, work: Work) -> Stream:
        """Send the prompts, each a request of its own; return when an answer begins.

        raises  PlanError    if it cannot be asked, or the other server refuses it
                EngineError  if that server is not there, not well, or has no place
        """
        self._check(work)
        wanted = work.sampling
        asks = [
            self._dialect.ask(prompt, wanted, deterministic=work.deterministic)
            for prompt in work.prompts
        ]
        readers = [Reader(prompt * wanted.n, wanted) for prompt in range(len(asks))]
        stream = Stream([self._call(*each) for each in zip(asks, readers, strict=True)])
        await stream.begin()
        return stream

    async def close(self) -> None:
        """Take no more work, and close all connections."""
        self._alive = False
        await self._client.close()

    def _check(self, work: Work) -> None:
        if not self._alive:
            raise EngineError(
                "engine must be open, got work after it was closed; start another", status=503
            )
        if work.reading is not None:
            raise PlanError(
                "model must offer attention for a reading stage, got one that does not: "
                f"{self._info.refusals['attention']}; leave the stage out",
                param="stages",
            )
        scored = work.sampling.logprobs is not None or work.sampling.labels
        if scored and "logprobs" not in self.offers:
            raise PlanError(
                "model must report log-probabilities, got one that does not: "
                f"{self._info.refusals['logprobs']}; leave logprobs out",
                param="logprobs",
            )

    async def _call(self, ask: Ask, reader: Reader) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of one request; in a stream an empty one says that it was accepted."""
        async with self._places:
            with self._access.translated():
                if ask.stream:
                    events = await self._client.post(
                        ask.path,
                        cast_to=object,
                        body=ask.body,
                        stream=True,
                        stream_cls=AsyncStream[object],
                    )
                    async with events:
                        yield Chunk(reader.first)
                        async for event in events:
                            for chunk in reader.read(event):
                                yield chunk
                else:
                    sent = await self._client.post(ask.path, cast_to=object, body=ask.body)
                    for chunk in reader.read(sent):
                        yield chunk
                for chunk in reader.end():
                    yield chunk
