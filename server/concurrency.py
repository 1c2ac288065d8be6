"""Much to do: a few at once in order of completion, or all at once; and what must end well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")


async def completed(
    things: AsyncIterator[Thing],
    work: Callable[[Thing], Awaitable[Result]],
    at_once: int,
) -> AsyncGenerator[Result, None]:
    """Do the work for each thing and yield the results in order of completion.

    at_once  things taken whose result has not been yielded: who reads slowly holds the rest back
    raises   what `work` or `things` raises; then, as when it is closed, the work that is running
             is cancelled and has ended before this returns
    """
    running: list[asyncio.Future[Result]] = []
    coming: asyncio.Future[tuple[Thing] | None] | None = None
    ended = False
    try:
        while running or not ended:
            if coming is None and not ended and len(running) < at_once:
                coming = asyncio.ensure_future(_next(things))
            watched: list[asyncio.Future[Any]] = [*running, coming] if coming else [*running]
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if coming is not None and coming.done():
                taken, coming = coming.result(), None
                if taken is None:
                    ended = True
                else:
                    running.append(asyncio.ensure_future(work(taken[0])))
            for task in [task for task in running if task.done()]:
                running.remove(task)
                yield task.result()
    finally:
        await _cancel([*running, coming] if coming else [*running])


async def each(things: Iterable[Thing]) -> AsyncIterator[Thing]:
    """Yield what is there already."""
    for thing in things:
        yield thing


async def together(work: Iterable[Awaitable[Result]]) -> list[Result]:
    """Await all at once; if one fails, stop the others before raising its error."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def unbroken(work: Awaitable[Result]) -> Result:
    """Await what must not be left half done: a caller that is cancelled waits for its end."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def closed(stream: object) -> None:
    """Close a stream that nobody reads any more, if it can be closed: that stops its work."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()


async def _next(things: AsyncIterator[Thing]) -> tuple[Thing] | None:
    """Return the next thing, or None at the end."""
    async for thing in things:
        return (thing,)
    return None


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
