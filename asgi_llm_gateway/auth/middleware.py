"""Who calls: the access token of every call is checked before anything else sees the call."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ..endpoints import below_mount
from ..errors import (
    AuthenticationFailed,
    ClientLeft,
    ConfigurationError,
    GatewayError,
    PermissionDenied,
)
from ..exchange.caller import Caller
from ..exchange.record import PREFIXES, Exchange
from ..exchange.telling import farewell, refuse
from .cache import ResultCache
from .client_ip import Network, TrustedProxies
from .credential import credential_of
from .guard import ModelGuard, check_endpoint, check_model
from .pinning import cuts
from .store import MemoryTokenStore, TokenStore
from .token import AccessToken

Authenticate = Callable[[str, Scope], Awaitable[AccessToken | Caller | None]]

_HEALTH = ("/health/live", "/health/ready")
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1


class TokenAuthMiddleware:
    """Lets in only calls that show a good access token, and says on the exchange whose it is.

        TokenAuthMiddleware(app, access_tokens={"sk-alice": {"name": "alice", "models": ["gpt-*"]}})

    Exactly one of these says who is known:

    - `access_tokens`: fields by secret (see `AccessToken`), or a list of tokens or settings tables;
    - `store`: a `TokenStore`;
    - `authenticate`: an async callable of yours, `(credential, scope) -> AccessToken | Caller |
      None`. This is the way for JWT and OIDC. None means no good credential, a GatewayError is
      told to the caller. Any other exception is a bug of the callable and goes up to the server:

          async def authenticate(credential, scope):
              try:
                  claims = jwt.decode(credential, keys, algorithms=["RS256"], audience="llm")
              except jwt.InvalidTokenError:
                  return None
              subject = claims["sub"]
              digest = hashlib.sha256(credential.encode()).hexdigest()
              return AccessToken(name=subject, sha256=digest, expires=claims["exp"])

    Where the credential is looked for is written in `credential.py`. The answers of a store or a
    callable are kept by credential alone for `cache_ttl` seconds (bad ones `negative_cache_ttl`);
    0 asks on every call, as a callable that looks at more of the scope must. Expiry, `enabled` and
    `ips` are checked on every call.

    A call without a good token is answered 401, always in the same words. `ips` and `models` are
    answered 403. A token with `models` may call only endpoints whose model can be seen; `bypass`
    names others it may use all the same ("files", "batches", "realtime"). A token with `pin` may be
    followed by a dash and a channel's name (see `pinning.py`); a callable gets the whole.
    `check_mapped_models` also holds what an alias, a mapping or a fallback makes of the model to
    that list: `models` then has to name the provider's model too. `trusted_proxies` are the
    addresses, CIDR blocks or the word "unix" whose X-Forwarded-For is believed. `clock` is unix
    time, `timer` monotonic.

    The credential stays in the scope: an app of yours inside may want it, the relay never sends it
    on. Preflights (OPTIONS with Origin and Access-Control-Request-Method) pass, no credential can
    come with them. On a host's app only paths below `prefixes` are looked at.
    """

    role = "auth"

    def __init__(
        self,
        app: ASGIApp,
        *,
        access_tokens: Mapping[str, Mapping[str, Any]]
        | Iterable[AccessToken | Mapping[str, Any]]
        | None = None,
        authenticate: Authenticate | None = None,
        store: TokenStore | None = None,
        trusted_proxies: Iterable[str | Network] = (),
        prefixes: Iterable[str] = PREFIXES,
        bypass: Collection[str] = (),
        check_mapped_models: bool = True,
        cache_ttl: float = 5.0,
        negative_cache_ttl: float = 1.0,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        if sum(given is not None for given in (access_tokens, authenticate, store)) != 1:
            raise ConfigurationError(
                "TokenAuthMiddleware takes exactly one of access_tokens, authenticate and store"
            )
        for name, value in (("prefixes", prefixes), ("bypass", bypass)):
            if isinstance(value, str):
                raise ConfigurationError(f"TokenAuthMiddleware: {name} is a list, not {value!r}")
        self.app = app
        self._tokens = store if isinstance(store, MemoryTokenStore) else None
        if access_tokens is not None:
            self._tokens = MemoryTokenStore.of(access_tokens)
        self._store = store
        self._authenticate = authenticate
        self._proxies = TrustedProxies.of(trusted_proxies)
        self._prefixes = tuple(prefix.rstrip("/") for prefix in prefixes)
        self._bypass = frozenset(bypass)
        self._mapped = check_mapped_models
        self._clock = clock
        self._cache: ResultCache[AccessToken | Caller] = ResultCache(
            cache_ttl, negative_cache_ttl, timer=timer
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        exchange = Exchange.of(scope)
        if not exchange.concerns(scope, self._prefixes):
            exchange.passed_by = "TokenAuthMiddleware"
            return await self.app(scope, receive, send)
        if _is_free(scope, exchange):
            return await self.app(scope, receive, send)
        try:
            if self._tokens is not None:
                caller = self._known(scope, exchange, self._tokens)
            else:
                caller = await self._asked(scope, exchange)
            exchange.caller = caller
            if caller.models is not None or caller.channels is not None:
                scope, receive = await self._limit(scope, receive, exchange, caller)
        except GatewayError as error:
            return await _refuse(error, exchange, scope, receive, send)
        except ClientLeft:
            exchange.outcome = "client_left"
            return await farewell(send)
        return await self.app(scope, receive, send)

    def _known(self, scope: Scope, exchange: Exchange, tokens: MemoryTokenStore) -> Caller:
        """The caller when all tokens are at hand: the hot path, without a coroutine."""
        credential = credential_of(scope, exchange.endpoint.dialect)
        if not credential:
            raise _unknown()
        digest, pinned = sha256(credential).hexdigest(), None
        token = tokens.find(digest)
        if token is None and tokens.pins:
            for secret, name in cuts(credential):
                digest, pinned = sha256(secret).hexdigest(), name
                if (token := tokens.find(digest)) is not None:
                    break
        return self._let_in(token, digest, pinned, scope)

    async def _asked(self, scope: Scope, exchange: Exchange) -> Caller:
        """The caller by a store or a callable, or by what they answered a moment ago."""
        credential = credential_of(scope, exchange.endpoint.dialect)
        if not credential:
            raise _unknown()
        if self._authenticate is not None:
            # Only here: what a store or a list knows is the gateway's own, and for no provider.
            exchange.bearer = credential.decode("ascii")
        digest, pinned = sha256(credential).hexdigest(), None
        found = await self._found(credential, digest, scope)
        # A callable is given the whole credential and names the channel itself if it wants to.
        if found is None and self._store is not None:
            for secret, name in cuts(credential):
                digest, pinned = sha256(secret).hexdigest(), name
                if (found := await self._found(secret, digest, scope)) is not None:
                    break
        if isinstance(found, Caller):
            return found
        return self._let_in(found, digest, pinned, scope)

    def _let_in(
        self, token: AccessToken | None, digest: str, pinned: str | None, scope: Scope
    ) -> Caller:
        """The caller of a token that was found by `digest`, if it is good now and allows this."""
        now = self._clock()
        if token is None or (pinned is not None and not token.pin) or not token.is_good(now):
            raise _unknown()
        # A callable vouches for the token it names; a store must have found the right one.
        if self._authenticate is None and not token.belongs_to(digest, now):
            raise _unknown()
        if token.networks is not None and not token.may_call_from(self._proxies.address_of(scope)):
            raise _not_that()
        return token.caller if pinned is None else replace(token.caller, pinned=pinned)

    async def _found(
        self, credential: bytes, digest: str, scope: Scope
    ) -> AccessToken | Caller | None:
        if self._cache.bad(digest):
            return None
        found = self._cache.good(digest)
        if found is None:
            found = await self._ask(credential, digest, scope)
            self._cache.put(digest, found)
        return found

    async def _ask(
        self, credential: bytes, digest: str, scope: Scope
    ) -> AccessToken | Caller | None:
        if self._authenticate is None:
            return None if self._store is None else await self._store.get(digest)
        try:
            found = await self._authenticate(credential.decode("ascii"), scope)
        except AuthenticationFailed:
            return None
        if found is not None and not isinstance(found, AccessToken | Caller):
            raise ConfigurationError(
                f"authenticate returned a {type(found).__name__}; return an AccessToken, a Caller "
                "or None"
            )
        return found

    async def _limit(
        self, scope: Scope, receive: Any, exchange: Exchange, caller: Caller
    ) -> tuple[Scope, Receive]:
        """Hold a call to the caller's channels and models; reads the body only for the latter."""
        endpoint = exchange.endpoint
        if caller.channels is not None:
            for named in (endpoint.channel, caller.pinned):
                if named is not None and named not in caller.channels:
                    raise _not_that()
        if caller.models is None:
            return scope, receive
        exchange.bypassed = check_endpoint(endpoint, scope, self._bypass)
        exchange.guards.append(ModelGuard(exchange, caller, mapped=self._mapped))
        # With another method it is no call, and there may be no body that could be read.
        if endpoint.kind != "call" or scope.get("method") not in endpoint.methods:
            return scope, receive
        if endpoint.model is not None:
            check_model(caller, endpoint.model)
        body = await exchange.read(scope, receive)
        if (model := body.view.model) is not None:
            check_model(caller, model)
        return exchange.inward(scope, receive)


def _unknown() -> AuthenticationFailed:
    """One message for no token, a wrong one, an expired one and one that is switched off."""
    return AuthenticationFailed("no good access token: send one as 'Authorization: Bearer <token>'")


def _not_that() -> PermissionDenied:
    return PermissionDenied("this access token may not do that")


def _is_free(scope: Scope, exchange: Exchange) -> bool:
    """Preflights, and the health routes of a Gateway."""
    if scope["type"] != "http":
        return False
    method = scope["method"]
    if method == "OPTIONS":
        names = {name for name, _ in scope["headers"]}
        return b"origin" in names and b"access-control-request-method" in names
    return (
        exchange.everything_ours
        and exchange.endpoint.kind == "unknown"
        and method in ("GET", "HEAD")
        and below_mount(scope["path"], scope.get("root_path", "")) in _HEALTH
    )


async def _refuse(
    error: GatewayError, exchange: Exchange, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer in the caller's dialect; a WebSocket is closed before it was accepted."""
    if scope["type"] != "websocket":
        return await refuse(exchange, scope, send, error)
    exchange.outcome = "refused"
    if (await receive())["type"] == "websocket.connect":
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
    return None
