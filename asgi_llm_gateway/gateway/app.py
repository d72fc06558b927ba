"""Gateway: parts around the relay, their resources and their lifespan, as one ASGI app."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ..auth.cors import cors
from ..channels.channel import Channel
from ..channels.health.events import HealthEvent
from ..channels.mapping import Names
from ..channels.policy import Failover
from ..errors import ConfigurationError, Unavailable
from ..exchange.limits import BodyLimits
from ..exchange.record import Exchange
from ..exchange.telling import farewell, refuse
from ..keys.upkeep import Upkeep
from ..relay import Relay
from ..runtime import Resources, Tasks, answer_lifespan
from ..state import State
from ..upstream.contract import Upstream
from .answers import Outgoing, end_badly, tell_health
from .compose import checked, compose

if TYPE_CHECKING:
    from ..settings import Settings, Source
    from .configured import Configuration

log = logging.getLogger("asgi_llm_gateway.gateway")

_LIVE, _READY = "/health/live", "/health/ready"
_HEALTH = (_LIVE, _READY)
_HEALTH_ENDS = (*_HEALTH, _LIVE + "/", _READY + "/")
"""Litestar puts a slash at the end of every path below a mount."""


class Run:
    """The gateway at work in one event loop."""

    __slots__ = ("idle", "in_flight", "tasks")

    def __init__(self) -> None:
        self.in_flight = 0
        self.tasks = Tasks()
        self.idle: asyncio.Event | None = None
        """Made when draining begins; set by the last call to end."""

    async def drain(self, seconds: float) -> None:
        """Wait for the calls under way, at most so long."""
        if not self.in_flight:
            return
        self.idle = asyncio.Event()
        log.info("waiting up to %s s for %d calls to end", seconds, self.in_flight)
        try:
            async with asyncio.timeout(seconds):
                await self.idle.wait()
        except TimeoutError:
            log.warning("%d calls had not ended after %s s", self.in_flight, seconds)


class Gateway:
    """Parts around a relay, as one ASGI app to mount, serve bare, or enter.

        gateway = Gateway(channels=[…], middleware=[Middleware(TokenAuthMiddleware, …), …])
        app = Starlette(lifespan=gateway.lifespan)
        app.mount("/v1", gateway)

    `middleware` is outermost first; its order is checked, never changed. `cors_origins` lets
    scripts of these origins call. `shutdown_timeout` is how many seconds calls under way get to
    end. `anonymous` serves pass-through routes without a caller too; `limits` bound a caller's
    body. The rest is the relay's. Nothing is read or opened before it starts. Raises
    ConfigurationError for parts in an order that cannot work.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        middleware: Sequence[Middleware] = (),
        cors_origins: Sequence[str] = (),
        shutdown_timeout: float = 30.0,
        aliases: Mapping[str, Names] | None = None,
        default_models: Mapping[str, str] | None = None,
        anonymous: bool = False,
        limits: BodyLimits | None = None,
        failover: Failover | None = None,
        state: State | str | None = None,
        keys: Upkeep | None = None,
        on_health: Sequence[Callable[[HealthEvent], None]] = (),
        upstream: Upstream | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.relay = Relay(
            channels,
            aliases=aliases,
            default_models=default_models,
            anonymous=anonymous,
            failover=failover,
            state=state,
            keys=keys,
            on_health=on_health,
            upstream=upstream,
            environ=environ,
        )
        self._app, self.parts = compose(checked(middleware), self.relay)
        self._entry: ASGIApp = cors(self._serve, cors_origins)
        self._open_to_all = not anonymous and not any(
            getattr(part, "role", None) == "auth" for part in self.parts
        )
        self._limits = limits or BodyLimits()
        self._configuration: Configuration | None = None
        self._shutdown_timeout = shutdown_timeout
        self._stopped: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self.resources: Resources[Run] = Resources(self._open, started_by="gateway.lifespan")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or speak the lifespan protocol when served bare."""
        kind = scope["type"]
        if kind == "http":
            path: str = scope["path"]
            if path.endswith(_HEALTH_ENDS) and _is_health(path, scope.get("root_path", "")):
                await self._tell_health(scope, send)
            else:
                await self._entry(scope, receive, send)
        elif kind == "lifespan":
            await answer_lifespan(self.resources, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange.of(scope)
        exchange.everything_ours = True
        exchange.limits = self._limits
        run = self.resources.at(exchange.loop)
        if run is None:
            try:
                run = await self._start()
            except Unavailable as refusal:
                return await refuse(exchange, scope, send, refusal)
        exchange.tasks = run.tasks
        out = Outgoing(send)
        run.in_flight += 1
        try:
            await self._app(scope, receive, out)
        except Exception as failure:  # the top-level supervisor: nothing raises into the host
            await end_badly(scope, out, failure)
        finally:
            run.in_flight -= 1
            if run.idle is not None and not run.in_flight:
                run.idle.set()
        if out.start is None and exchange.outcome == "client_left":
            await farewell(send)  # a part inside noticed it and answered nothing
        return None

    async def _start(self) -> Run:
        """Start on the first call of a gateway that was merely mounted.

        Raises Unavailable once it was stopped, and when it cannot start.
        """
        if asyncio.get_running_loop() in self._stopped:
            raise Unavailable(
                "the gateway is shutting down; try again", code="shutting_down", retry_after=1
            )
        try:
            return await self.resources.get()
        except ConfigurationError as problem:
            log.error("cannot start: %s", problem)  # noqa: TRY400 - one line that names the fix
            raise Unavailable(
                "the gateway cannot start; its log says why", code="not_started", retry_after=30
            ) from problem

    async def _tell_health(self, scope: Scope, send: Send) -> None:
        """Live as long as it answers; ready once started and not draining.

        A probe starts a gateway that was merely mounted: who is never ready is never called.
        """
        if not scope["path"].rstrip("/").endswith(_READY):
            return await tell_health(scope, send, "live", healthy=True)
        if self.resources.current is None:
            try:
                await self._start()
            except Unavailable as refusal:
                return await tell_health(scope, send, str(refusal.code), healthy=False)
        return await tell_health(scope, send, "ready", healthy=True)

    @classmethod
    def from_settings(
        cls,
        given: Source | Settings | None,
        *,
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Gateway:
        """A gateway by a settings file (its path), a mapping like one, or settings read before;
        None leaves it all to the environment.

        The environment goes over the file, flags over both; see `settings.read_settings`. Raises
        ConfigurationError with one line for each problem, also when nobody could call.
        """
        from .configured import Configuration

        configuration = Configuration(given, environ, flags)
        try:
            gateway = cls(**configuration.arguments(), environ=environ)
        except ConfigurationError as problem:
            raise ConfigurationError(f"{configuration.source}: {problem.message}") from problem
        gateway._configuration = configuration
        return gateway

    def reload(self, given: Source | Settings | None = None) -> None:
        """Read the settings again (or others) and serve calls that begin from now on by them.

        Channels, aliases and access tokens change; calls under way go on as they began, and keys
        that were dead stay dead. Everything else needs a restart, and a log line says so. Raises
        ConfigurationError, and changes nothing, when the new settings cannot work.
        """
        if self._configuration is None:
            raise ConfigurationError(
                "this gateway was not made by from_settings; call gateway.relay.reload(channels)"
            )
        self._configuration.reload(self.relay, given)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Run]:
        """Parts outermost first, then the relay; closed in reverse, once calls have ended."""
        loop = asyncio.get_running_loop()
        run = Run()
        if self._open_to_all:
            log.warning(
                "no part names callers: whoever reaches this gateway may call. Add "
                "Middleware(TokenAuthMiddleware, ...), or say anonymous=True if that is meant"
            )
        async with AsyncExitStack() as stack:
            for part in (*self.parts, self.relay):
                resources = getattr(part, "resources", None)
                if resources is not None:
                    await stack.enter_async_context(resources)
            self._stopped.discard(loop)
            try:
                yield run
            except GeneratorExit:
                # Nobody stopped us and the loop is ending: it closes every open generator by
                # itself, the parts' too, and one must not be closed from two sides.
                stack.pop_all()
                raise
            finally:
                self._stopped.add(loop)
                await run.drain(self._shutdown_timeout)
                await run.tasks.join(self._shutdown_timeout)

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:  # noqa: ARG002 - a host's lifespan
        """For `Starlette(lifespan=gateway.lifespan)`, alone or through `combine_lifespans`."""
        async with self.resources:
            yield

    async def __aenter__(self) -> Gateway:
        """Start; for scripts, tests and hosts without a lifespan."""
        await self.resources.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let calls under way end, settle, close."""
        await self.resources.__aexit__(kind, failure, trace)


def _is_health(path: str, root_path: str) -> bool:
    """Whether a path that ends in a health route has nothing but the mount in front of it.

    Of the mount's prefix the path may lack what a proxy took off (uvicorn leaves that in, hypercorn
    does not), or all of it.
    """
    before, found, which = path.rstrip("/").rpartition("/health/")
    return found + which in _HEALTH and root_path.endswith(before)
