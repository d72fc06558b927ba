"""Comments for callers whose clients give a silent stream up: they commit the status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..runtime import kept_tasks
from .hedging import given_up

T = TypeVar("T")


async def kept_alive(
    work: Coroutine[Any, Any, T], say: Callable[[], Awaitable[None]], seconds: float
) -> T:
    """What `work` returns; `say` is awaited whenever it has taken `seconds` more.

    A cancel of the caller, or a failure of `say`, cancels `work` and waits for it to end; it ends
    however often the caller is cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=seconds))[0]:
            await say()
    except BaseException:
        await kept_tasks().settle(given_up([task]))
        raise
    return task.result()
