"""What lives as long as an event loop: opened resources, kept tasks, and one sweep for all clocks.

Nothing here starts at import or construction. `PerLoop` makes a value on its first use in a loop,
`Resources` opens a part's files and connections once per loop, `Tasks` keeps work that must finish
although nobody awaits it any more (money), `Sweep` looks at everything that has a deadline with one
timer instead of one timer each.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

log = logging.getLogger("asgi_llm_gateway.runtime")


class PerLoop(Generic[T]):
    """One value per event loop, made on first use there and forgotten with the loop."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._all: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = (
            weakref.WeakKeyDictionary()
        )
        self._last: tuple[weakref.ref[asyncio.AbstractEventLoop], T] | None = None

    def get(self, loop: asyncio.AbstractEventLoop | None = None) -> T:
        """The running loop's value; who knows the loop already names it and saves a look-up."""
        if loop is None:
            loop = asyncio.get_running_loop()
        if (last := self._last) is not None and last[0]() is loop:
            return last[1]
        value = self._all.get(loop)
        if value is None:
            value = self._all[loop] = self._make()
        self._last = (weakref.ref(loop), value)
        return value


class Tasks:
    """Tasks that must end by themselves: kept here, never lost to a cancel, joined at shutdown."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start `work` in a task of its own; a failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)
        return task

    async def settle(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` so that no number of cancels of the caller stops it halfway.

        A second native cancel gets through anyio's shield, and through no task of its own. What
        `work` raises is raised here, or logged when the caller was cancelled meanwhile.
        """
        task = self.keep(work)
        task.remove_done_callback(_log_failure)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def join(self, deadline: float) -> None:
        """Wait up to `deadline` seconds for what is still under way, then cancel it and say so."""
        until = asyncio.get_running_loop().time() + deadline
        # More than once: work under way may still begin other work.
        while self._tasks and (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left)
        for task in (late := set(self._tasks)):
            log.error("gave up after %s s on %r", deadline, task.get_coro())
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        log.error("background work failed", exc_info=failure)


_kept = PerLoop(Tasks)


def kept_tasks() -> Tasks:
    """The running loop's tasks, for parts that no Gateway gave any."""
    return _kept.get()


class Swept(Protocol):
    """Something with a deadline."""

    def tick(self, now: float) -> None:
        """Called every sweep, with the loop's time, until removed."""
        ...


class Sweep:
    """One timer for everything that waits in this loop; it stops when nothing does."""

    def __init__(self, period: float = 0.25) -> None:
        self._period = period
        self._waiting: dict[Swept, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Swept) -> None:
        """Have `waiting.tick(now)` called once a period, give or take one period."""
        self._waiting[waiting] = None
        if self._timer is None:
            self._arm()

    def remove(self, waiting: Swept) -> None:
        """No more ticks for it; removing twice does no harm."""
        self._waiting.pop(waiting, None)

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._period, self._run)

    def _run(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        try:
            for waiting in tuple(self._waiting):
                if waiting in self._waiting:  # else an earlier tick of this round removed it
                    waiting.tick(now)
        finally:
            if self._waiting:
                self._arm()


_sweeps = PerLoop(Sweep)


def sweep(loop: asyncio.AbstractEventLoop | None = None) -> Sweep:
    """The running loop's sweep."""
    return _sweeps.get(loop)


class _Opening(Generic[T]):
    """The state of one loop: who holds the context open, and what it yielded."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.context: AbstractAsyncContextManager[T] | None = None
        self.value: T | None = None
        self.holders = 0


class Resources(Generic[T]):
    """A part's files, tasks and connections, opened once per event loop.

    Gateway enters it in its lifespan; a part used alone hands the lifespan scope to `lifespan`;
    merely mounted, the first call opens it through `get`. Entering twice in one loop is one
    opening, closed by the last to leave. Opened by a first call it is closed when the loop shuts
    its asynchronous generators down, which asyncio.run does at its end.
    """

    def __init__(
        self, open_: Callable[[], AbstractAsyncContextManager[T]], *, started_by: str
    ) -> None:
        self._open = open_
        self._started_by = started_by
        self._per_loop: PerLoop[_Opening[T]] = PerLoop(_Opening)

    @property
    def current(self) -> T | None:
        """What is open in the running loop, or None."""
        return self._per_loop.get().value

    def at(self, loop: asyncio.AbstractEventLoop) -> T | None:
        """`current` for who knows the running loop already."""
        return self._per_loop.get(loop).value

    async def get(self) -> T:
        """What is open in the running loop; opened now if nobody has."""
        opening = self._per_loop.get()
        if opening.context is None:
            await asyncio.shield(asyncio.ensure_future(self._open_late(opening)))
        return cast(T, opening.value)

    async def _open_late(self, opening: _Opening[T]) -> None:
        async with opening.lock:
            if opening.context is None:
                await self._enter(opening)
                log.warning(
                    "started on the first call; give your app %s to start and stop it in order",
                    self._started_by,
                )

    async def _enter(self, opening: _Opening[T]) -> None:
        context = self._open()
        opening.value = await context.__aenter__()
        opening.context = context

    async def __aenter__(self) -> T:
        opening = self._per_loop.get()
        async with opening.lock:
            if opening.context is None:
                await self._enter(opening)
            opening.holders += 1
            return cast(T, opening.value)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        opening = self._per_loop.get()
        async with opening.lock:
            opening.holders -= 1
            if opening.holders > 0 or opening.context is None:
                return
            context, opening.context, opening.value = opening.context, None, None
            await context.__aexit__(kind, failure, trace)

    async def lifespan(
        self, app: Callable[..., Coroutine[Any, Any, None]], scope: Any, receive: Any, send: Any
    ) -> None:
        """Hold this open while `app` handles the lifespan scope that passes through.

        A failure to open is told to the server as `lifespan.startup.failed`: an exception would
        be read as "this app has no lifespan" and the server would go on without it.
        """
        try:
            await self.__aenter__()
        except Exception as failure:  # supervisor: told to the server, then raised
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(failure)})
            raise
        try:
            await app(scope, receive, send)
        finally:
            await self.__aexit__(None, None, None)


def combine_lifespans(*lifespans: Callable[[Any], AbstractAsyncContextManager[Any]]) -> Any:
    """One lifespan that enters several in order and leaves them in reverse.

    What each yields (a mapping or None) is merged into the state the host sees; None when no
    mapping was yielded, since a server need not have a lifespan state.
    """

    @asynccontextmanager
    async def combined(app: Any) -> Any:
        states: list[Mapping[str, Any]] = []
        async with AsyncExitStack() as stack:
            for lifespan in lifespans:
                state = await stack.enter_async_context(lifespan(app))
                if state is not None:
                    states.append(state)
            yield {name: value for state in states for name, value in state.items()} or None

    return combined


async def answer_lifespan(
    context: AbstractAsyncContextManager[Any], receive: Receive, send: Send
) -> None:
    """Speak the lifespan protocol for an app that is served bare."""
    await receive()
    try:
        await context.__aenter__()
    except Exception as failure:  # supervisor: the server is told, the log has the trace
        log.exception("start failed")
        await send({"type": "lifespan.startup.failed", "message": str(failure)})
        return
    try:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    except BaseException:
        await context.__aexit__(None, None, None)
        raise
    try:
        await context.__aexit__(None, None, None)
    except Exception as failure:  # supervisor: likewise
        log.exception("stop failed")
        await send({"type": "lifespan.shutdown.failed", "message": str(failure)})
        return
    with suppress(OSError):  # the server may be gone before it hears that we are done
        await send({"type": "lifespan.shutdown.complete"})
