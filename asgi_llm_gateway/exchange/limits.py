"""How much of a caller's body is taken, and how long it may take to arrive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from ..errors import RequestTimeout
from ..runtime import sweep


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How much of a caller's body is taken and how long it may take to arrive.

    max_bytes is counted after inflating; idle and total are seconds.
    """

    max_bytes: int = 32 * 1024 * 1024
    idle: float = 30.0
    total: float = 120.0


class Clock(Protocol):
    """Whoever keeps the time of a body that is being read; told of every piece."""

    progress: float


class Late:
    """Holds a caller to the limits of time where no relay watches; the loop's sweep looks."""

    __slots__ = ("_cancelling", "_limits", "_start", "_task", "late", "progress")

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self.late = False

    def __enter__(self) -> Late:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._start = self.progress = asyncio.get_running_loop().time()
        sweep().add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sweep().remove(self)
        if self.late and self._task is not None:
            # A cancel of somebody else's came as well if uncancel() leaves one more: that one wins.
            alone = self._task.uncancel() <= self._cancelling
            if alone and kind is asyncio.CancelledError:
                raise RequestTimeout("the request body did not arrive in time") from None

    def tick(self, now: float) -> None:
        limits = self._limits
        late = now - self.progress > limits.idle or now - self._start > limits.total
        if late and not self.late and self._task is not None:
            self.late = True
            self._task.cancel()
