"""A store that goes away and comes back, and calls that go on meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from asgi_llm_gateway import Gateway
from tests.upstreams import ask
from tests.valkey import Valkey

Going = Literal["killed", "silent"]


@contextmanager
def away(store: Valkey, going: Going) -> Iterator[None]:
    """A store that was killed comes back empty, one that was stopped as it was."""
    if going == "silent":
        with store.paused():
            yield
        return
    store.kill()
    yield
    store.start()


@dataclass
class Traffic:
    """Calls one after the other, several at a time, with what each got and how long it took."""

    gateway: Gateway
    width: int = 8
    statuses: list[int | None] = field(default_factory=list)
    longest: float = 0.0

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._go_on()) for _ in range(self.width)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _go_on(self) -> None:
        while True:
            began = time.monotonic()
            answer = await ask(self.gateway)
            self.longest = max(self.longest, time.monotonic() - began)
            self.statuses.append(answer.status)
            await asyncio.sleep(0.01)

    async def seconds(self, count: float) -> int:
        """Let it run; how many calls were answered meanwhile."""
        seen = len(self.statuses)
        await asyncio.sleep(count)
        return len(self.statuses) - seen
