"""Comments for callers whose clients give a silent stream up: they commit the status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def kept_alive(
    work: Coroutine[Any, Any, T], say: Callable[[], Awaitable[None]], seconds: float
) -> T:
    """What `work` returns; `say` is awaited whenever it has taken `seconds` more.

    A cancel of the caller, or a failure of `say`, cancels `work` and waits for it to end.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=seconds))[0]:
            await say()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
