"""One more attempt elsewhere when the first is late; the first to answer serves the call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from ..errors import GatewayError
from ..runtime import kept_tasks

log = logging.getLogger("asgi_llm_gateway.relay")

T = TypeVar("T")
Work = Coroutine[Any, Any, T | None]
Lost = Callable[[T], Awaitable[None]]


async def hedged(
    work: Work[T],
    late: float,
    other: Callable[[], Work[T]],
    won: Callable[[T], None],
    lost: Lost[T],
) -> None:
    """`work`, and beside it what `other` makes once `work` took `late` seconds.

    `won` is told the first result; then the slower one is cancelled, and `lost` is awaited with
    its result if it has one too. None from one of them leaves the other to go on, what either
    raises ends both. Whoever cancels this cancels both, and they end however often it does so.
    """
    tasks = [asyncio.ensure_future(work)]
    told: asyncio.Task[T | None] | None = None
    try:
        if not (await asyncio.wait(tasks, timeout=late))[0]:
            tasks.append(asyncio.ensure_future(other()))
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for told in sorted(done, key=lambda task: (_result(task) is None, tasks.index(task))):
                result = told.result()
                if result is not None:
                    return won(result)
        return None
    finally:
        others = [task for task in tasks if task is not told]
        if others:
            await kept_tasks().settle(_end(others, lost))


async def _end(tasks: Sequence[asyncio.Task[T | None]], lost: Lost[T]) -> None:
    await given_up(tasks)
    async with AsyncExitStack() as each_for_itself:
        for task in tasks:
            result = _result(task)
            if result is not None:
                each_for_itself.push_async_callback(lost, result)


async def given_up(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what is still going on, and wait for it. Nobody is told how it failed, so what is no
    failure of a call's but a bug is logged."""
    going = [task for task in tasks if not task.done()]
    for task in going:
        task.cancel()
    if going:
        await asyncio.wait(going)
    for task in tasks:
        failure = None if task.cancelled() else task.exception()
        if failure is not None and not isinstance(failure, GatewayError):
            log.error("an attempt that was given up broke down", exc_info=failure)


def _result(task: asyncio.Task[T | None]) -> T | None:
    good = task.done() and not task.cancelled() and task.exception() is None
    return task.result() if good else None
