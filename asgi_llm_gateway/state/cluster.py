"""A cluster: redis-py knows who holds which slot; what one tick asks a node goes in one pipeline.

Every node has a lane with a breaker of its own, so that one that hangs holds up nobody else, and
a lane has one pipeline under way: what is asked meanwhile makes the next. redis-py's own retries
are off, for it would send again what may have been carried out; a redirection (MOVED, ASK), with
which a node says that it did nothing, is followed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError, SlotNotCoveredError

from ..errors import StateUnavailable
from ..runtime import sweep
from .faults import StateFault, StoreAway, fault_of_redis, why
from .gate import Gate
from .line import LIMIT
from .link import late
from .opening import login, tls_options
from .url import StoreURL

__all__ = ["ClusterLine"]

log = logging.getLogger("asgi_llm_gateway.state")

Argument = bytes | str | int | float
Asked = tuple[tuple[Argument, ...], "asyncio.Future[Any]", float]

_BATCH = 1000
"""Commands that one pipeline carries at most."""
_AGAIN = 0.5
"""Seconds between two looks at who holds which slot."""


class _Lane:
    """What is asked of one node."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.queue: list[Asked] = []
        self.batch: list[Asked] = []
        self.task: asyncio.Task[None] | None = None

    def waiting(self) -> list[Asked]:
        return [asked for asked in (*self.batch, *self.queue) if not asked[1].done()]


class ClusterLine:
    """Like Line, for a cluster; `gate` makes the breaker of the node whose name it is given."""

    def __init__(
        self,
        url: StoreURL,
        gate: Callable[[str], Gate],
        *,
        timeout: float,
        connect_timeout: float,
        limit: int = LIMIT,
    ) -> None:
        self._client = _client(url, timeout, connect_timeout)
        self._gate = gate
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, _Lane] = {}
        self._waiting = 0
        self._ready = self._due = self._watched = self._closed = False
        self._looking: asyncio.Task[None] | None = None
        self._looked = 0.0

    def call(self, args: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """See Line.call; a command whose keys are in several slots is a StateFault."""
        now = self._loop.time()
        lane = self._lane_of(args)
        if lane.gate.open:
            lane.gate.admit(now)
        if self._waiting >= self._limit:
            raise StateUnavailable("too many commands wait for the shared store")
        if self._closed:
            raise StateUnavailable("the connection to the shared store is closed")
        if not args:
            raise TypeError("a command needs a name")
        pack_command(args)  # type: ignore[arg-type]  # raises now what would spoil a whole batch
        future = self._loop.create_future()
        self._waiting += 1
        future.add_done_callback(self._no_longer)
        lane.queue.append((args, future, now + self._timeout))
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)
        return future

    def first_to_load(self, sha: str) -> bool:  # noqa: ARG002
        """Always: a script is loaded node by node, and seldom."""
        return True

    async def close(self) -> None:
        """See Line.close."""
        self._flush()
        lanes = self._lanes.values()
        asked = [asked[1] for lane in lanes if not lane.gate.open for asked in lane.waiting()]
        if asked:
            await asyncio.wait(asked, timeout=self._timeout)
        self._closed = True
        tasks = [lane.task for lane in lanes if lane.task is not None]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for lane in lanes:
            self._refuse(lane)
        sweep(self._loop).remove(self)
        await self._client.aclose()

    def tick(self, now: float) -> None:
        """Keep the time limits of all that wait; see runtime.Swept."""
        for lane in self._lanes.values():
            overdue = [asked for asked in lane.waiting() if asked[2] <= now]
            for _, future, _ in overdue:
                future.set_exception(late())
            if overdue:
                self._failed(lane, "no answer in time", len(overdue))
        if not self._waiting:
            self._watched = False
            sweep(self._loop).remove(self)

    def _no_longer(self, _: asyncio.Future[Any]) -> None:
        self._waiting -= 1

    def _lane_of(self, args: tuple[Argument, ...]) -> _Lane:
        """By the first key; redis-py looks at all of them again."""
        name = ""
        if self._ready and (key := _first_key(args)) is not None:
            slot = self._client.keyslot(key)
            try:
                name = self._client.nodes_manager.get_node_from_slot(slot).name
            except SlotNotCoveredError:
                self._look_again()
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(self._gate(name))
        return lane

    def _flush(self) -> None:
        self._due = False
        for lane in self._lanes.values():
            if lane.queue and lane.task is None and not self._closed:
                lane.task = self._loop.create_task(self._serve(lane))
        if self._waiting and not self._watched:
            self._watched = True
            sweep(self._loop).add(self)

    async def _serve(self, lane: _Lane) -> None:
        """One pipeline after the other, while there is anything to ask."""
        try:
            while lane.queue:
                lane.batch, lane.queue = lane.queue[:_BATCH], lane.queue[_BATCH:]
                batch = [asked for asked in lane.batch if not asked[1].done()]
                if batch:
                    await self._ask(lane, batch)
                lane.batch = []
        finally:
            lane.task = None
            lane.batch = []

    async def _ask(self, lane: _Lane, batch: Sequence[Asked]) -> None:
        try:
            async with asyncio.timeout(self._timeout if self._ready else self._connect_timeout):
                await self._client.initialize()
                self._ready = True
                replies = await self._execute(batch)
        except (RedisClusterException, RedisError, OSError, TimeoutError) as failure:
            waiting = [future for _, future, _ in batch if not future.done()]
            # Every call that has waited in vain is a failure; a connection that breaks is one.
            count = len(waiting) if isinstance(failure, TimeoutError) else 1
            self._failed(lane, why(failure), count)
            for future in waiting:
                future.set_exception(lane.gate.refusal(self._loop.time()))
            return
        self._answer(lane, batch, replies)

    async def _execute(self, batch: Sequence[Asked]) -> list[Any]:
        pipeline = self._client.pipeline()
        for args, _, _ in batch:
            name = args[0]
            pipeline.execute_command(
                name.decode() if isinstance(name, bytes) else str(name), *args[1:]
            )
        try:
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except SlotNotCoveredError:
            raise
        except RedisClusterException as unsendable:
            # redis-py finds out where all of a batch goes before it sends any of it.
            if len(batch) == 1:
                return [StateFault(f"CROSSSLOT {unsendable}")]
            return [reply for asked in batch for reply in await self._execute([asked])]
        return replies

    def _answer(self, lane: _Lane, batch: Sequence[Asked], replies: Sequence[Any]) -> None:
        lost: Exception | None = None
        for (_, future, _), reply in zip(batch, replies, strict=True):
            outcome = reply
            if isinstance(reply, ResponseError):
                outcome = fault_of_redis(reply)
            elif isinstance(reply, RedisError):
                outcome = StateUnavailable("the connection to the shared store broke")
            if isinstance(outcome, StateUnavailable):
                lost = outcome if isinstance(outcome, StoreAway) else reply
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if lost is None:
            lane.gate.succeeded()
        else:
            self._failed(lane, lost.reply if isinstance(lost, StoreAway) else why(lost))

    def _failed(self, lane: _Lane, reason: str, count: int = 1) -> None:
        if lane.gate.failed(self._loop.time(), reason, count):
            self._refuse(lane)
        self._look_again()

    def _refuse(self, lane: _Lane) -> None:
        """Those not asked yet need not wait for what is not there."""
        queue, lane.queue = lane.queue, []
        for _, future, _ in queue:
            if not future.done():
                future.set_exception(lane.gate.refusal(self._loop.time()))

    def _look_again(self) -> None:
        """Slots may have another holder by now: ask, in the background, and not too often."""
        now = self._loop.time()
        if not self._ready or self._closed or self._looking or now < self._looked + _AGAIN:
            return
        self._looked = now
        self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._client.nodes_manager.initialize()
        except (RedisClusterException, RedisError, OSError, TimeoutError) as failure:
            # The lanes tell when calls fail; this is only why they go on failing.
            log.debug("cannot ask the cluster who holds which slot: %s", why(failure))
        finally:
            self._looking = None


def _first_key(args: tuple[Argument, ...]) -> bytes | str | None:
    """The key by which a command finds its node; EVAL and EVALSHA have it after their count."""
    by_script = len(args) > 3 and str(args[0]).upper() in {"EVAL", "EVALSHA"}
    key = args[3] if by_script else args[1] if len(args) > 1 else None
    return key if isinstance(key, bytes | str) else None


def _client(url: StoreURL, timeout: float, connect_timeout: float) -> Any:
    options: dict[str, Any] = {
        **login(url.user, url.password),
        **(tls_options(url) if url.tls else {}),
        "ssl": url.tls,
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": connect_timeout / 2,  # time for a second node, if one is silent
    }
    client = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in url.hosts],
        require_full_coverage=False,
        retry=Retry(NoBackoff(), 0),
        reinitialize_steps=0,
        **options,
    )
    # Answers as they come, as on a single server; redis-py itself needs those to COMMAND read.
    for name in tuple(client.response_callbacks):
        if not name.startswith(("CLUSTER", "COMMAND")):
            del client.response_callbacks[name]
    return client
