"""The mountable relay: a plain ASGI app that ends every composition of parts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

from ..auth.credential import from_headers
from ..channels.channel import Channel
from ..channels.health.book import Health
from ..channels.health.events import HealthEvent
from ..channels.health.shared import SharedHealth
from ..channels.index import ChannelTable, Tiers
from ..channels.mapping import Names
from ..channels.policy import Failover
from ..errors import (
    AuthenticationFailed,
    ClientLeft,
    ConfigurationError,
    GatewayError,
)
from ..exchange.body import JSONBody, too_large
from ..exchange.limits import BodyLimits
from ..exchange.record import Exchange
from ..exchange.snapshot import Snapshot
from ..exchange.telling import farewell
from ..keys.upkeep import Upkeep
from ..runtime import Resources, answer_lifespan
from ..state import State
from ..upstream.contract import Upstream
from . import last_resort, models, passthrough
from .attempts import Attempts
from .call import Call
from .conduct import Conduct
from .headers import TO_CALLER, TO_CALLER_RAW
from .inbound import DEFAULT_MODELS, served, understand
from .keepalive import kept_alive
from .outbound import Outbound
from .plan import Plan
from .supply import Supply
from .times import until
from .watch import Watch

log = logging.getLogger("asgi_llm_gateway.relay")


class Relay:
    """Relays calls to the channels that serve their models.

        app.mount("/v1", Relay(channels=[Channel(...)]))

    aliases: names callers may use for models, each for one or for several that are asked in order.
    default_models: what a call without a model asks for, by endpoint. anonymous: pass-through also
    without a caller. failover: how far a call that fails goes on. state: what several processes
    share (a URL, or a State). keys: how keys are looked after. on_health: told of every change of
    a channel's health. upstream: how channels without one of their own connect. Keys are read when
    it starts (in a lifespan, else on the first call), not when it is built.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
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
        rng: Random | None = None,
    ) -> None:
        self._channels = tuple(channels)
        self._aliases = dict(aliases or {})
        self._defaults = {**DEFAULT_MODELS, **(default_models or {})}
        self._anonymous = anonymous
        self._limits = limits
        rules = failover or Failover()
        shared = State(state) if isinstance(state, str) else state
        rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        sharing = SharedHealth(shared) if shared is not None and shared.shared else None
        self.health = Health(rules.health_rules(), shared=sharing, on_change=on_health, rng=rng)
        """Which channels can be asked; `disable` and `enable` are a hand's."""
        self._conduct = Conduct(rules, self.health, rng)
        self._supply = Supply(upstream, environ, shared, keys or Upkeep(), sharing, self._conduct)
        self._table: Snapshot[ChannelTable] | None = None
        self.resources: Resources[Snapshot[ChannelTable]] = Resources(
            self._open, started_by="gateway.lifespan"
        )

    @property
    def channels(self) -> ChannelTable | None:
        """The channels of the moment; None before the start."""
        return self._table.current if self._table else None

    async def test(self, channel: str) -> float:
        """Ask a channel something small now, and tell its health how that went; the seconds it
        took. Raises what failed, NotSupported for a channel that is not there."""
        return await self._supply.checkup(await self.resources.get()).test(channel)

    def reload(
        self, channels: Sequence[Channel], aliases: Mapping[str, Names] | None = None
    ) -> None:
        """Serve calls that begin from now on by these channels.

        Raises ConfigurationError, and changes nothing, when they cannot work. Keys that were dead
        in a channel of the same name stay dead.
        """
        table = self._supply.table(channels, self._aliases if aliases is None else aliases)
        if self._table is not None:
            self._supply.swap(self._table, table)
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
        out = Outbound(exchange, scope, send, watch, self._conduct)
        try:
            with watch:
                exchange.started = watch.progress
                snapshot = self.resources.at(loop) or await self._start()
                await self._route(exchange, scope, receive, snapshot.current, out)
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
        if (
            out.started and not out.kept_alive
        ):  # it cannot be said any more: without a last message nobody is fooled
            exchange.outcome = "truncated"
            log.warning("call %s: an answer was cut midway: %s", exchange.request_id, error)
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

    def _route(
        self, exchange: Exchange, scope: Any, receive: Any, table: ChannelTable, out: Outbound
    ) -> Coroutine[Any, Any, None]:
        """What is to be done for this call, by method and path alone; raises its refusal."""
        endpoint, method = exchange.endpoint, scope["method"]
        if exchange.passed_by is not None and exchange.caller is None and not self._anonymous:
            raise let_by(exchange.passed_by, exchange.root_path)
        if self._anonymous and exchange.caller is None and table.takes_bearers:
            exchange.bearer = (from_headers(scope["headers"]) or b"").decode("ascii") or None
        if endpoint.versioned:
            if endpoint.kind == "call" and method in endpoint.methods:
                return self._relay(exchange, scope, receive, table, out)
            if endpoint.kind == "models" and (
                method in endpoint.methods or not takes_any_path(table)
            ):
                return self._list(exchange, method, table, out)
            if method in passthrough.METHODS and endpoint.path not in ("", "/"):
                through = passthrough.tiers(exchange, table, anonymous=self._anonymous)
                if through:
                    return self._relay(exchange, scope, receive, table, out, through)
        raise last_resort.refusal(exchange, method)

    async def _list(
        self, exchange: Exchange, method: str, table: ChannelTable, out: Outbound
    ) -> None:
        headers, listing = models.answer(exchange, method, table)
        await out.start(200, headers)
        await out.body(b"" if method == "HEAD" else listing, more=False)
        exchange.outcome = "ok"

    async def _understood(
        self, exchange: Exchange, scope: Any, receive: Any, table: ChannelTable, watch: Watch
    ) -> tuple[Call, Tiers]:
        """The call with its body read, and who serves it."""
        body = exchange.body or await exchange.read(scope, receive, watch)
        if isinstance(body, JSONBody) and len(body.raw) > exchange.limits.max_bytes:
            raise too_large(exchange.limits)  # an outer part read it by its own limits
        wanted = understand(exchange, body, table, self._defaults)
        tiers = served(table, wanted, exchange)
        call = Call(exchange, wanted, scope, watch, buffer=self._conduct.buffers)
        if exchange.endpoint.body != "json":
            call.form(scope, receive, watch)
        return call, tiers

    async def _relay(
        self,
        exchange: Exchange,
        scope: Any,
        receive: Any,
        table: ChannelTable,
        out: Outbound,
        through: Tiers | None = None,
    ) -> None:
        """Pass a call on, to the channels that serve its model or, unread, to those given."""
        conduct, watch = self._conduct, out.watch
        plan: Plan
        if through is None:
            plan, tiers = await self._understood(exchange, scope, receive, table, watch)
            names = TO_CALLER
        else:
            plan, tiers = passthrough.Passthrough(exchange, scope, receive, watch), through
            names = TO_CALLER_RAW
        prefer: str | None = None
        if conduct.affinity is not None:
            prefer = conduct.affinity.of(scope["headers"], exchange.body)
        attempts = Attempts(exchange, plan, tiers, table, conduct, prefer)
        watch.give_up_at = until(exchange.started, conduct.time_budget, plan.times)
        try:
            begun = attempts.first()
            if conduct.keep_alive is not None and plan.streamed:
                begun = kept_alive(begun, out.comment, conduct.keep_alive)
            running = await begun
            watch.give_up_at = None
            exchange.first_byte = running.attempt.first_byte
            await out.relay(attempts, running, names)
        finally:
            if attempts.running is not None:
                await attempts.close(exchange.outcome or "left")

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Snapshot[ChannelTable]]:
        if self._table is None:
            self._table = Snapshot(self._supply.table(self._channels, self._aliases))
        try:
            async with AsyncExitStack() as stack:
                await self._supply.open(stack, self._table)
                try:
                    yield self._table
                except GeneratorExit:
                    # Nobody stopped us and the loop is ending: it closes every open generator by
                    # itself, those on the stack too, and one must not be closed from two sides.
                    stack.pop_all()
                    raise
        finally:
            await self._supply.close()


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
