"""A provider with billing pages: what it says of each key is set by the test, and what is asked of
it is counted.

    host = BillingHost({"sk-good": Account(limit=5, used_cents=125)})
    upstream = FakeUpstream(host)            # or served(host.app) for a real socket
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asgi_llm_gateway.keys.accounts import KeyAccounts
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.keys.probes import probe_named
from asgi_llm_gateway.runtime import answer_lifespan
from tests.upstreams import Asked, FakeUpstream, Reply

API = "https://provider.test/v1"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
SUBSCRIPTION = "/v1/dashboard/billing/subscription"
USAGE = "/v1/dashboard/billing/usage"
MODELS = "/v1/models"

Page = Callable[[Asked], Reply] | Reply


@dataclass
class Account:
    """What the dashboard tells of a key; `valid` is whether /models lets it in."""

    limit: Any = 5
    used_cents: Any = 0
    until: Any = 0
    valid: bool = True


class BillingHost:
    """Answers an OpenAI-style dashboard and /models; `pages` replaces any page by its path."""

    def __init__(
        self, accounts: Mapping[str, Account], pages: Mapping[str, Page] | None = None
    ) -> None:
        self.accounts = accounts
        self.pages = dict(pages or {})
        self.asked: Counter[str] = Counter()
        self.targets: list[str] = []
        self.keys: Counter[str] = Counter()

    def __call__(self, asked: Asked) -> Reply:
        target = asked.request.target
        path = target.partition("?")[0]
        self.asked[path] += 1
        self.targets.append(target)
        self.keys[asked.key or ""] += 1
        page = self.pages.get(path)
        if page is not None:
            return page if isinstance(page, Reply) else page(asked)
        account = self.accounts.get(asked.key or "")
        if account is None or (path == MODELS and not account.valid):
            return Reply.error(401, "Incorrect API key provided")
        if path == SUBSCRIPTION:
            return Reply.json({"hard_limit_usd": account.limit, "access_until": account.until})
        if path == USAGE:
            return Reply.json({"object": "list", "total_usage": account.used_cents})
        if path == MODELS:
            return Reply.json({"object": "list", "data": []})
        return Reply.error(404, "no such page")

    @property
    def app(self) -> Any:
        """The same as an ASGI app, to be served on a socket; for plain replies only."""

        async def answered(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await answer_lifespan(nullcontext(), receive, send)
                return
            bearer = dict(scope["headers"]).get(b"authorization", b"").decode()
            reply = self(_Heard(scope["path"], bearer.removeprefix("Bearer ")))  # type: ignore[arg-type]
            body = b"".join(step for step in reply.steps if isinstance(step, bytes))
            start = {"type": "http.response.start", "status": reply.status}
            await send({**start, "headers": list(reply.headers)})
            await send({"type": "http.response.body", "body": body})

        return answered


class _Heard:
    """As much of an Asked as the host looks at."""

    def __init__(self, target: str, key: str) -> None:
        self.key = key
        self.request = self
        self.target = target


def accounts_at(
    upstream: FakeUpstream | Any,
    pool: MemoryKeyPool,
    *,
    billing: str = "dashboard",
    api: str = API,
    validity: bool = True,
    **more: Any,
) -> KeyAccounts:
    """Accounts of a pool at a host that is always asked at the same time of day."""
    given = {"clock": lambda: NOW, "name": "main", **more}
    listing = probe_named("models", api) if validity else None
    return KeyAccounts(pool, probe_named(billing, api), upstream, validity=listing, **given)


def secrets_in(pool: MemoryKeyPool) -> list[str]:
    """The secrets in use, sorted."""
    return sorted(key.secret for key in pool.keys)


def key_of(pool: MemoryKeyPool, secret: str) -> Key:
    """The key with that secret."""
    return next(key for key in pool.keys if key.secret == secret)
