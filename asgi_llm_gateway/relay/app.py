"""The mountable relay: a plain ASGI app that ends every composition of parts."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from ..channels.channel import Channel
from ..channels.index import ChannelTable, Tiers
from ..channels.live import LiveChannel
from ..errors import AuthenticationFailed, ClientLeft, ConfigurationError, GatewayError
from ..exchange.body import JSONBody, too_large
from ..exchange.limits import BodyLimits
from ..exchange.record import Exchange
from ..exchange.snapshot import Snapshot
from ..exchange.telling import farewell
from ..runtime import Resources, answer_lifespan
from ..upstream.contract import Upstream
from ..upstream.direct import DirectUpstream
from . import last_resort, models, passthrough
from .attempts import Plan, first_to_answer
from .call import Call
from .headers import TO_CALLER, TO_CALLER_RAW
from .inbound import DEFAULT_MODELS, understand
from .outbound import Outbound
from .watch import Watch

log = logging.getLogger("asgi_llm_gateway.relay")


class Relay:
    """Relays calls to the channels that serve their models.

        app.mount("/v1", Relay(channels=[Channel(...)]))

    aliases: names callers may use for models. default_models: what a call without a model asks
    for, by endpoint. anonymous: pass-through also without a caller. max_attempts: tries of one
    call; dead keys, and candidates a guard refuses, are not counted. upstream: how channels
    without one of their own connect. Keys are read when it starts (in a lifespan, else on the
    first call), not when it is built.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        aliases: Mapping[str, str] | None = None,
        default_models: Mapping[str, str] | None = None,
        anonymous: bool = False,
        limits: BodyLimits | None = None,
        max_attempts: int = 4,
        upstream: Upstream | None = None,
        environ: Mapping[str, str] | None = None,
        rng: Random | None = None,
    ) -> None:
        self._channels = tuple(channels)
        self._aliases = dict(aliases or {})
        self._defaults = {**DEFAULT_MODELS, **(default_models or {})}
        self._anonymous = anonymous
        self._limits = limits
        self._max_attempts = max_attempts
        self._given = upstream is not None
        self._upstream: Upstream = upstream or DirectUpstream()
        self._proxies: dict[str, Upstream] = {}
        self._environ = environ
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._table: Snapshot[ChannelTable] | None = None
        self.resources: Resources[Snapshot[ChannelTable]] = Resources(
            self._open, started_by="gateway.lifespan"
        )

    @property
    def channels(self) -> ChannelTable | None:
        """The channels of the moment; None before the start."""
        return self._table.current if self._table else None

    def reload(self, channels: Sequence[Channel], aliases: Mapping[str, str] | None = None) -> None:
        """Serve calls that begin from now on by these channels.

        Raises ConfigurationError, and changes nothing, when they cannot work. Keys that were dead
        in a channel of the same name stay dead.
        """
        table = self._build(channels, self._aliases if aliases is None else aliases)
        if self._table is not None:
            old = self._table.current.by_name
            for channel in table.channels:
                if channel.name in old:
                    channel.adopt(old[channel.name])
            self._table.swap(table)
        self._channels = tuple(channels)
        if aliases is not None:
            self._aliases = dict(aliases)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._other(scope, receive, send)
        exchange = Exchange.of(scope)
        if self._limits is not None:
            exchange.limits = self._limits
        loop = exchange.loop
        watch = Watch(receive, exchange.limits, loop)
        out = Outbound(exchange, scope, send, watch)
        try:
            with watch:
                exchange.started = watch.progress
                snapshot = self.resources.at(loop) or await self._start()
                await self._serve(exchange, scope, receive, snapshot.current, out)
        except ClientLeft:
            exchange.outcome = "client_left"
            if not out.started:
                await farewell(send)
        except OSError:
            if not out.started:  # a guard's or a key pool's own, and nobody has left
                raise
            exchange.outcome = "client_left"  # ASGI 2.4: how send may say so
        except GatewayError as error:
            await self._refuse(exchange, out, error)
            error.__traceback__ = None  # its frames lead back to the exchange that keeps it
        finally:
            exchange.ended = loop.time()
            if exchange.outcome is None:
                exchange.outcome = "cancelled"
        return None

    async def _refuse(self, exchange: Exchange, out: Outbound, error: GatewayError) -> None:
        if out.started:  # it cannot be said any more: without a last message nobody is fooled
            exchange.outcome = "truncated"
            log.warning("an answer was cut midway: %s", error)
            return
        try:
            await out.refuse(error)
        except OSError:  # the caller left while it was being told
            exchange.outcome = "client_left"

    async def _other(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(self.resources, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not served here"})
        else:
            raise ValueError(f"unknown scope type {scope['type']!r}")

    async def _start(self) -> Snapshot[ChannelTable]:
        """Merely mounted: started by the first call. What is wrong is the operator's to read."""
        try:
            return await self.resources.get()
        except ConfigurationError as error:
            log.error("cannot start: %s", error)  # noqa: TRY400 - one line that says what to do
            raise ConfigurationError("the gateway is not configured; see its log") from error

    async def _serve(
        self, exchange: Exchange, scope: Any, receive: Any, table: ChannelTable, out: Outbound
    ) -> None:
        endpoint, method = exchange.endpoint, scope["method"]
        if exchange.passed_by is not None and exchange.caller is None and not self._anonymous:
            raise let_by(exchange.passed_by, exchange.root_path)
        if endpoint.versioned:
            if endpoint.kind == "call" and method in endpoint.methods:
                body = exchange.body or await exchange.read(scope, receive, out.watch)
                if isinstance(body, JSONBody) and len(body.raw) > exchange.limits.max_bytes:
                    raise too_large(exchange.limits)  # an outer part read it by its own limits
                wanted = understand(exchange, body, table.aliases, self._defaults)
                tiers = table.tiers(wanted.model, endpoint.name, exchange.caller)
                call = Call(exchange, wanted, scope, out.watch)
                if endpoint.body != "json":
                    call.form(scope, receive, out.watch)
                return await self._run(exchange, call, tiers, out, TO_CALLER)
            if endpoint.kind == "models" and (
                method in endpoint.methods or not takes_any_path(table)
            ):
                headers, listing = models.answer(exchange, method, table)
                await out.start(200, headers)
                await out.body(b"" if method == "HEAD" else listing, more=False)
                exchange.outcome = "ok"
                return None
            if method in passthrough.METHODS and endpoint.path not in ("", "/"):
                through = passthrough.tiers(exchange, table, anonymous=self._anonymous)
                if through:
                    raw = passthrough.Passthrough(exchange, scope, receive, out.watch)
                    return await self._run(exchange, raw, through, out, TO_CALLER_RAW)
        raise last_resort.refusal(exchange, method)

    async def _run(
        self,
        exchange: Exchange,
        plan: Plan,
        tiers: Tiers,
        out: Outbound,
        names: frozenset[bytes],
    ) -> None:
        clock = out.watch.loop.time
        running = await first_to_answer(exchange, plan, tiers, self._max_attempts, self._rng, clock)
        exchange.first_byte = clock()
        try:
            await out.relay(running, names)
        finally:
            await running.close(exchange, clock(), exchange.outcome or "left")

    def _build(self, channels: Sequence[Channel], aliases: Mapping[str, str]) -> ChannelTable:
        environ = os.environ if self._environ is None else self._environ
        live = [LiveChannel(c, self._upstream_of(c), environ) for c in channels]
        return ChannelTable(live, aliases)

    def _upstream_of(self, channel: Channel) -> Upstream:
        """The channel's own way out, one through its proxy, the simulator's, or the shared one."""
        if channel.upstream is not None:
            return channel.upstream
        if channel.provider == "simulator" and channel.base_url is None:
            from ..providers.simulator import simulator_app
            from ..upstream.in_process import InProcessUpstream

            return InProcessUpstream(simulator_app())
        if channel.proxy is not None:
            from ..upstream.via_httpx import proxied

            if channel.proxy not in self._proxies:
                self._proxies[channel.proxy] = proxied(channel.proxy)
            return self._proxies[channel.proxy]
        return self._upstream

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Snapshot[ChannelTable]]:
        if self._table is None:
            self._table = Snapshot(self._build(self._channels, self._aliases))
        try:
            yield self._table
        finally:
            if not self._given:
                await self._upstream.aclose()
            for upstream in self._proxies.values():
                await upstream.aclose()


def let_by(part: str, root_path: str) -> AuthenticationFailed:
    """The refusal of a call that the part which names callers took for a route of the host's."""
    log.error("%s let a call by: give it prefixes=(%r,)", part, root_path or "/")
    return AuthenticationFailed(
        f"no good access token: {part} does not look after {root_path or '/'}; name it in prefixes",
        code="caller_required",
    )


def takes_any_path(table: ChannelTable) -> bool:
    """Whether there is a channel for pass-through, whoever calls."""
    return any(c.config.passthrough for c in table.channels)
