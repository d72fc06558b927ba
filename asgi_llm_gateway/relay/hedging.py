"""One more attempt elsewhere when the first is late; the first to answer serves the call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
Work = Coroutine[Any, Any, T | None]
Lost = Callable[[T | None], Awaitable[None]]


async def hedged(
    work: Work[T], late: float, other: Callable[[], Awaitable[Work[T] | None]], lost: Lost[T]
) -> T | None:
    """The first result of `work`, or of what `other` gives once `work` took `late` seconds.

    None from one of them leaves the other to go on; what either raises ends both. `lost` is
    awaited with None before the slower one is cancelled, or with its result if it has one too.
    Whoever cancels this cancels both and waits for them to end.
    """
    tasks = [asyncio.ensure_future(work)]
    winner: asyncio.Task[T | None] | None = None
    try:
        if not (await asyncio.wait(tasks, timeout=late))[0]:
            again = await other()
            if again is not None:
                tasks.append(asyncio.ensure_future(again))
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=tasks.index):
                if task.result() is not None:
                    winner = task
                    return task.result()
        return None
    finally:
        await _end([task for task in tasks if task is not winner], lost)


async def _end(tasks: Sequence[asyncio.Task[T | None]], lost: Lost[T]) -> None:
    for task in tasks:
        if not task.done():
            await lost(None)
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            result = task.result()
            if result is not None:
                await lost(result)
