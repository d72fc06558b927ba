"""Asking a provider how it stands with a key: its billing pages, or a call that costs nothing.

A probe asks through an `Inquiry`, which signs for one key and goes out by the channel's own
upstream. What a page says is read and judged in billing.py; everything else that can happen (no
connection, a refusal, a page of HTML) is CannotTell or another UpstreamError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from ..errors import ConfigurationError, Headers
from ..upstream.contract import Origin, Timeouts, Upstream, UpstreamRequest
from .billing import (
    Balance,
    CannotTell,
    Verdict,
    judge,
    read_deepseek,
    read_moonshot,
    read_openrouter,
    read_siliconflow,
    read_subscription,
    read_usage,
    slices,
    usage_window,
    with_usage,
)

PATIENCE: Final = Timeouts(connect=5, first_byte=15, idle=10, total=20, wait=10)
"""Time limits of one request of a probe."""

_LARGEST: Final = 4 * 1024 * 1024
"""Bytes; a listing of models is the longest answer a probe looks at."""
_NOT_THE_KEY: Final = ("missing scopes", "insufficient permissions", "ip_not_authorized")


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One key's questions: how they are signed, how they go out, and when (Unix time) it is."""

    secret: str = field(repr=False)
    headers: Headers = field(repr=False)
    upstream: Upstream
    now: float
    timeouts: Timeouts = PATIENCE

    async def get(self, url: str) -> tuple[int, bytes]:
        """The status and the whole body; raises UpstreamError. Redirects are not followed: they
        would take the key to another host."""
        origin, target = Origin.split(url)
        headers = [
            *self.headers,
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"asgi-llm-gateway"),
        ]
        request = UpstreamRequest("GET", origin, target, headers, timeouts=self.timeouts)
        answer = await self.upstream.send(request)
        try:
            body = await answer.read(_LARGEST)
        except BaseException:
            await answer.aclose()
            raise
        return answer.status, body

    async def document(self, url: str) -> object:
        """The JSON document of a 200; raises CannotTell for any other answer."""
        status, body = await self.get(url)
        if status != 200:
            raise CannotTell(f"the billing host answered {status}")
        try:
            return msgspec.json.decode(body)
        except (ValueError, RecursionError) as exc:
            raise CannotTell("the billing host answered with something that is not JSON") from exc


class Probe(Protocol):
    """Judges a key by asking its provider."""

    async def check(self, inquiry: Inquiry) -> Verdict:
        """Whether the key is good; raises UpstreamError (CannotTell above all) when that is not
        known."""
        ...


@dataclass(frozen=True, slots=True)
class DashboardBilling:
    """OpenAI-style billing: a page for the limit, a page for the usage of a span of days."""

    subscription: str
    usage_url: str

    async def check(self, inquiry: Inquiry) -> Verdict:
        """Expired, without limit, or with usage of the last 99 days at the limit: gone."""
        balance = read_subscription(await inquiry.document(self.subscription))
        verdict = judge(balance, inquiry.now)
        if verdict.fate == "gone":
            return verdict
        today = datetime.fromtimestamp(inquiry.now, UTC).date()
        used = await self.usage(inquiry, *usage_window(today))
        return judge(with_usage(balance, used), inquiry.now)

    async def usage(self, inquiry: Inquiry, start: date, end: date) -> float:
        """Dollars used from `start` up to `end` (exclusive), asked for 100 days at a time.

        Look-alike services often tell everything ever used, whatever days they are asked about:
        for spans over 100 days their sum is then too high.
        """
        total = 0.0
        for since, until in slices(start, end):
            mark = "&" if "?" in self.usage_url else "?"
            url = f"{self.usage_url}{mark}start_date={since}&end_date={until}"
            total += read_usage(await inquiry.document(url))
        return total


@dataclass(frozen=True, slots=True)
class BalancePage:
    """A provider with one page that tells the balance."""

    url: str
    read: Callable[[object], Balance]

    async def check(self, inquiry: Inquiry) -> Verdict:
        """Expired or nothing left: gone."""
        return judge(self.read(await inquiry.document(self.url)), inquiry.now)


@dataclass(frozen=True, slots=True)
class ListsModels:
    """`GET /models`, which costs nothing and is refused to keys that are not valid (any more)."""

    url: str

    async def check(self, inquiry: Inquiry) -> Verdict:
        """401: gone. Not so when it is only this page that the key may not see, or not from here:
        OpenAI answers 401 to restricted keys too, and names the missing scope; and to addresses
        that an organization does not allow. Nor is a page for people (HTML, or what cannot be read)
        a provider's answer: a proxy or a firewall on the way does not know the key."""
        status, body = await inquiry.get(self.url)
        if status == 200:
            return Verdict("good")
        if status == 401 and _is_of_a_provider(body):
            return Verdict("gone", "the provider answered 401 to GET /models")
        raise CannotTell(f"the provider answered {status} to GET /models")


def _is_of_a_provider(refusal: bytes) -> bool:
    """Whether a 401's body is for programs (JSON, a plain line, nothing), and about the key."""
    try:
        text = refusal.decode("utf-8-sig").strip().lower()
    except UnicodeDecodeError:
        return False
    return not text.startswith("<") and not any(word in text for word in _NOT_THE_KEY)


Told = Balance | Verdict | bool | None
AskYourself = Callable[[str], Awaitable[Told]]


@dataclass(frozen=True, slots=True)
class Asks:
    """A callable of the user's own as a probe.

    It is given the secret and returns a Balance or a Verdict; or True for a good key, False for
    one to take out, None when it cannot tell.
    """

    ask: AskYourself

    async def check(self, inquiry: Inquiry) -> Verdict:
        """What the callable says; what it raises is raised."""
        told = await self.ask(inquiry.secret)
        if isinstance(told, Verdict):
            return told
        if isinstance(told, Balance):
            return judge(told, inquiry.now)
        if told is None:
            raise CannotTell("the billing callable could not tell")
        return Verdict("good") if told else Verdict("gone", "the billing callable says so")


_HOSTS: Final[Mapping[str, str]] = {
    "api.deepseek.com": "deepseek",
    "api.moonshot.ai": "moonshot",
    "api.moonshot.cn": "moonshot",
    "api.openai.com": "models",  # its billing pages have not taken API keys since 2023
    "api.siliconflow.cn": "siliconflow",
    "api.siliconflow.com": "siliconflow",
    "openrouter.ai": "openrouter",
}
_DASHBOARDS: Final = frozenset({"custom", "openai"})
_PAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "dashboard": {
        "subscription": "dashboard/billing/subscription",
        "usage": "dashboard/billing/usage",
    },
    "deepseek": {"balance": "/user/balance"},
    "models": {"models": "models"},
    "moonshot": {"balance": "users/me/balance"},
    "openrouter": {"balance": "key"},
    "siliconflow": {"balance": "user/info"},
}
"""Each probe's pages: from the host's root with a leading slash, else below the API's base."""
BILLING: Final = (*_PAGES, "none")
"""The names that `billing` may have; "none" asks nothing, not even for models."""


def billing_of(provider: str, api: str) -> str:
    """How keys of a provider are asked about when nobody says: by the host, else by its kind."""
    known = _HOSTS.get(urlsplit(api).hostname or "")
    return known or ("dashboard" if provider in _DASHBOARDS else "models")


def probe_named(name: str, api: str, urls: Mapping[str, str] | None = None) -> Probe | None:
    """The probe of that name for the API whose base is `api` (`https://host/v1`); "none" is None.

    `urls` moves its pages: whole URLs, or paths (below the base, or from the host's root with a
    leading slash). Raises ConfigurationError for a name or a page there is not.
    """
    if name == "none":
        return None
    if name not in _PAGES:
        raise ConfigurationError(f"billing is one of {', '.join(BILLING)}, not {name!r}")
    pages = {**_PAGES[name], **(urls or {})}
    for page in pages:
        if page not in _PAGES[name]:
            known = ", ".join(_PAGES[name])
            raise ConfigurationError(f"billing_urls of {name!r} has {page!r}; known are {known}")
    at = {page: _located(api, written) for page, written in pages.items()}
    if name == "dashboard":
        return DashboardBilling(at["subscription"], at["usage"])
    if name == "models":
        return ListsModels(at["models"])
    return BalancePage(at["balance"], _readers(api)[name])


def _readers(api: str) -> dict[str, Callable[[object], Balance]]:
    currency = "CNY" if (urlsplit(api).hostname or "").endswith(".cn") else "USD"
    return {
        "deepseek": read_deepseek,
        "moonshot": partial(read_moonshot, currency=currency),
        "openrouter": read_openrouter,
        "siliconflow": partial(read_siliconflow, currency=currency),
    }


def _located(api: str, written: str) -> str:
    parts = urlsplit(api)
    if "://" in written:
        url = written
    elif written.startswith("/"):
        url = f"{parts.scheme}://{parts.netloc}{written}"
    else:
        url = f"{api.rstrip('/')}/{written}"
    if not all("!" <= char <= "~" for char in url):
        raise ConfigurationError(f"billing_urls: {written!r} holds what no URL may")
    Origin.split(url)
    return url
