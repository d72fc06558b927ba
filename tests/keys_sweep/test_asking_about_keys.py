"""What is asked of a provider about a key, and what every possible answer leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import date
from typing import Any

import pytest

from asgi_llm_gateway.errors import (
    BadAnswer,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    KeyRevoked,
    PoolTimeout,
    UpstreamError,
    UpstreamTimeout,
)
from asgi_llm_gateway.keys.accounts import KeyAccounts
from asgi_llm_gateway.keys.billing import Balance, CannotTell, Verdict
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.keys.probes import (
    Asks,
    Told,
    billing_of,
    probe_named,
)
from tests.keys_sweep.billing_host import (
    API,
    MODELS,
    NOW,
    SUBSCRIPTION,
    USAGE,
    Account,
    BillingHost,
    accounts_at,
    key_of,
)
from tests.upstreams import HANG, FakeUpstream, Reply, until

HTML = Reply(200, [(b"content-type", b"text/html")], [b"<html>Just a moment...</html>"])
GZIPPED = Reply(200, [(b"content-encoding", b"gzip")], [b"\x1f\x8b\x08\x00rest"])
DEEP = Reply.json(b'{"a":' * 100_000)

FAILURES: dict[str, Reply] = {
    "no connection": Reply.fails(ConnectFailed("no")),
    "a reset": Reply.fails(ConnectionLost("no")),
    "a reset in the body": Reply(200, steps=[b'{"hard_limit', ConnectionLost("no")]),
    "silence": Reply.fails(UpstreamTimeout("no", phase="first_byte")),
    "no free connection": Reply.fails(PoolTimeout("no")),
    "not HTTP": Reply.fails(BadAnswer("no")),
    "a body without end": Reply(200, steps=[b" " * 65536] * 100),
    "401": Reply.error(401),
    "402": Reply.error(402),
    "403": Reply.error(403, "this page needs a session key"),
    "404": Reply.error(404),
    "429": Reply.error(429),
    "500": Reply.error(500),
    "502 in HTML": Reply(502, [], [b"<html>bad gateway</html>"]),
    "503": Reply.error(503),
    "a redirect": Reply(302, [(b"location", b"https://evil.test/")], []),
    "204": Reply(204),
    "HTML": HTML,
    "a compressed body": GZIPPED,
    "JSON too deep": DEEP,
    "nothing": Reply(200, steps=[b""]),
    "half a document": Reply.json(b'{"hard_limit_usd": 0'),
    "not UTF-8": Reply.json(b'{"hard_limit_usd": "\xff"}'),
    "a list": Reply.json([]),
    "null": Reply.json(None),
    "an error in a 200": Reply.json({"error": {"message": "no", "code": "invalid_api_key"}}),
    "an error beside zeros": Reply.json({"hard_limit_usd": 0, "total_usage": 9e9, "error": "no"}),
    "NaN": Reply.json(b'{"hard_limit_usd": NaN, "total_usage": NaN, "access_until": 0}'),
    "a negative": Reply.json({"hard_limit_usd": -5, "total_usage": -1}),
    "words": Reply.json({"hard_limit_usd": "none", "total_usage": "much"}),
    "an amount too long": Reply.json(
        b'{"hard_limit_usd": 1%s, "total_usage": 1%s}' % ((b"0" * 5000,) * 2)
    ),
    "absent members": Reply.json({"object": "billing_subscription"}),
}


def one_key(host: BillingHost, **how: Any) -> tuple[KeyAccounts, Key, FakeUpstream]:
    pool = MemoryKeyPool(["sk-one"])
    upstream = FakeUpstream(host)
    return accounts_at(upstream, pool, **how), key_of(pool, "sk-one"), upstream


@pytest.mark.parametrize("page", [SUBSCRIPTION, USAGE])
@pytest.mark.parametrize("failure", FAILURES)
async def test_no_failure_of_a_billing_page_condemns_a_key(failure: str, page: str) -> None:
    host = BillingHost({"sk-one": Account()}, {page: FAILURES[failure]})
    accounts, key, upstream = one_key(host, validity=False)
    verdict = await accounts.check(key)
    assert verdict.fate == "unknown"
    assert verdict.reason
    assert "sk-one" not in verdict.reason
    assert await accounts.pool.balances() == {}
    assert not upstream.open
    with pytest.raises(UpstreamError):
        await accounts.balance(key)


@pytest.mark.parametrize("failure", [name for name in FAILURES if name != "401"])
async def test_no_failure_of_the_models_page_but_401_condemns_a_key(failure: str) -> None:
    pages = {SUBSCRIPTION: Reply.error(404), MODELS: FAILURES[failure]}
    host = BillingHost({"sk-one": Account()}, pages)
    accounts, key, upstream = one_key(host)
    assert (await accounts.check(key)).fate != "gone"
    assert not upstream.open


async def test_a_key_that_may_not_list_models_is_gone_when_billing_cannot_tell() -> None:
    host = BillingHost({"sk-one": Account(valid=False)}, {SUBSCRIPTION: Reply.error(401)})
    accounts, key, _ = one_key(host)
    assert await accounts.check(key) == Verdict("gone", "the provider answered 401 to GET /models")
    host.pages.clear()
    good = await accounts.check(key)
    assert good.fate == "good"
    assert host.asked[MODELS] == 1, "what billing can tell is enough"


@pytest.mark.parametrize(
    "refusal",
    [
        b"<html><h1>401 Authorization Required</h1></html>",
        b"\xef\xbb\xbf\n  <!DOCTYPE html>",
        b"\x1f\x8b\x08\x00rest",
        b'{"error": {"code": "ip_not_authorized", "message": "Your IP is not authorized"}}',
    ],
)
async def test_a_401_that_is_not_the_providers_word_on_the_key_condemns_nothing(
    refusal: bytes,
) -> None:
    pages = {SUBSCRIPTION: Reply.error(404), MODELS: Reply(401, [], [refusal])}
    accounts, key, upstream = one_key(BillingHost({"sk-one": Account()}, pages))
    assert (await accounts.check(key)).fate == "unknown"
    assert not upstream.open


@pytest.mark.parametrize("refusal", [b"", b"Unauthorized", b'{"detail": "invalid token"}'])
async def test_a_plain_401_of_the_models_page_is_the_end_of_a_key(refusal: bytes) -> None:
    pages = {SUBSCRIPTION: Reply.error(404), MODELS: Reply(401, [], [refusal])}
    accounts, key, _ = one_key(BillingHost({"sk-one": Account()}, pages))
    assert (await accounts.check(key)).fate == "gone"


async def test_a_restricted_key_that_may_only_not_list_models_stays() -> None:
    refusal = Reply.error(
        401, "You have insufficient permissions for this operation. Missing scopes: api.model.read."
    )
    host = BillingHost({}, {SUBSCRIPTION: Reply.error(403), MODELS: refusal})
    accounts, key, _ = one_key(host)
    assert (await accounts.check(key)).fate == "unknown"


@pytest.mark.parametrize(
    ("account", "fate", "left"),
    [
        (Account(limit=5, used_cents=125), "good", 3.75),
        (Account(limit="5.00", used_cents="499.9"), "good", pytest.approx(0.001)),
        (Account(limit=5, used_cents=500), "gone", 0.0),
        (Account(limit=5, used_cents=5.0), "good", 4.95),
        (Account(limit=0), "gone", None),
        (Account(limit=5, until=NOW - 60), "gone", None),
        (Account(limit=5, until=str(int(NOW - 60))), "gone", None),
        (Account(limit=5, until=NOW + 60), "good", 5.0),
        (Account(limit=100_000_000, used_cents=1e12), "good", None),
        (Account(limit=1e15, used_cents=1e15), "good", pytest.approx(9.9e14)),
    ],
)
async def test_a_dashboard_is_judged_by_end_limit_and_usage(
    account: Account, fate: str, left: Any
) -> None:
    accounts, key, upstream = one_key(BillingHost({"sk-one": account}))
    verdict = await accounts.check(key)
    assert verdict.fate == fate
    assert verdict.balance is not None
    assert verdict.balance.left == left
    assert verdict.balance.checked == NOW
    assert await accounts.pool.balances() == {key.fingerprint: verdict.balance}
    assert not upstream.open


async def test_the_pages_are_asked_with_the_key_and_for_99_days() -> None:
    host = BillingHost({"sk-one": Account()})
    accounts, key, upstream = one_key(host)
    await accounts.check(key)
    assert host.targets == [SUBSCRIPTION, f"{USAGE}?start_date=2026-08-16&end_date=2026-11-24"]
    for asked in upstream.asked:
        assert asked.request.method == "GET"
        assert asked.request.origin.netloc == "provider.test"
        assert asked.key == "sk-one"
        assert asked.header("accept-encoding") == "identity"
        assert asked.request.timeouts.total is not None


async def test_usage_of_a_long_span_is_asked_for_in_pieces_and_added() -> None:
    host = BillingHost({"sk-one": Account(used_cents=150)})
    accounts, key, _ = one_key(host)
    assert await accounts.usage(key, date(2026, 1, 1), date(2026, 11, 1)) == 6.0
    spans = [target.partition("?")[2] for target in host.targets]
    assert spans == [
        "start_date=2026-01-01&end_date=2026-04-11",
        "start_date=2026-04-11&end_date=2026-07-20",
        "start_date=2026-07-20&end_date=2026-10-28",
        "start_date=2026-10-28&end_date=2026-11-01",
    ]
    assert await accounts.usage(key, date(2026, 1, 2), date(2026, 1, 2)) == 0.0


@pytest.mark.parametrize(
    ("name", "api", "url", "page", "expected"),
    [
        (
            "deepseek",
            "https://api.deepseek.com/v1",
            "https://api.deepseek.com/user/balance",
            {"is_available": True, "balance_infos": [{"currency": "USD", "total_balance": "3.5"}]},
            Balance(left=3.5, checked=NOW),
        ),
        (
            "openrouter",
            "https://openrouter.ai/api/v1",
            "https://openrouter.ai/api/v1/key",
            {"data": {"limit": None, "limit_remaining": None, "usage": 2.5}},
            Balance(used=2.5, checked=NOW),
        ),
        (
            "siliconflow",
            "https://api.siliconflow.cn/v1",
            "https://api.siliconflow.cn/v1/user/info",
            {"code": 20000, "status": True, "data": {"totalBalance": "8.80"}},
            Balance(left=8.8, currency="CNY", checked=NOW),
        ),
        (
            "siliconflow",
            "https://api.siliconflow.com/v1",
            "https://api.siliconflow.com/v1/user/info",
            {"code": 20000, "status": True, "data": {"totalBalance": "8.80"}},
            Balance(left=8.8, checked=NOW),
        ),
        (
            "moonshot",
            "https://api.moonshot.cn/v1",
            "https://api.moonshot.cn/v1/users/me/balance",
            {"code": 0, "status": True, "data": {"available_balance": 4}},
            Balance(left=4.0, currency="CNY", checked=NOW),
        ),
    ],
)
async def test_each_provider_has_its_own_page(
    name: str, api: str, url: str, page: Any, expected: Balance
) -> None:
    upstream = FakeUpstream(Reply.json(page))
    pool = MemoryKeyPool(["sk-one"])
    accounts = accounts_at(upstream, pool, billing=name, api=api, validity=False)
    assert await accounts.balance(key_of(pool, "sk-one")) == expected
    (asked,) = upstream.asked
    origin = asked.request.origin
    assert f"{origin.scheme}://{origin.netloc}{asked.request.target}" == url
    assert billing_of("custom", api) == name
    with pytest.raises(CannotTell):
        await accounts.usage(key_of(pool, "sk-one"), date(2026, 1, 1), date(2026, 1, 2))


async def test_both_pages_of_a_dashboard_can_be_elsewhere() -> None:
    urls = {"subscription": "https://billing.test/sub?v=2", "usage": "/api/used?all=1"}
    upstream = FakeUpstream(
        Reply.json({"hard_limit_usd": 1, "access_until": 0}), Reply.json({"total_usage": 100})
    )
    pool = MemoryKeyPool(["sk-one"])
    accounts = KeyAccounts(pool, probe_named("dashboard", API, urls), upstream, clock=lambda: NOW)
    assert (await accounts.check(key_of(pool, "sk-one"))).fate == "gone"
    first, second = upstream.asked
    assert (first.request.origin.host, first.request.target) == ("billing.test", "/sub?v=2")
    assert second.request.origin.host == "provider.test"
    assert second.request.target == "/api/used?all=1&start_date=2026-08-16&end_date=2026-11-24"


@pytest.mark.parametrize(
    ("name", "urls", "told"),
    [
        ("stripe", {}, "billing is one of dashboard, deepseek, models"),
        ("dashboard", {"balance": "x"}, "known are subscription, usage"),
        ("deepseek", {"balance": "ftp://x/y"}, "not an absolute http"),
        ("deepseek", {"balance": "/a b"}, "holds what no URL may"),
        ("deepseek", {"balance": "/a\r\nx: y"}, "holds what no URL may"),
    ],
)
def test_billing_there_is_not_is_refused(name: str, urls: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        probe_named(name, API, urls)


def test_how_keys_are_asked_about_when_nobody_says() -> None:
    assert billing_of("openai", "https://api.openai.com/v1") == "models"
    assert billing_of("openai", "https://look-alike.test/v1") == "dashboard"
    assert billing_of("custom", "https://look-alike.test/v1") == "dashboard"
    assert billing_of("groq", "https://api.groq.com/openai/v1") == "models"
    assert billing_of("deepseek", "https://api.deepseek.com/v1") == "deepseek"
    assert probe_named("none", API) is None


@pytest.mark.parametrize(
    ("told", "fate", "reason"),
    [
        (True, "good", ""),
        (False, "gone", "the billing callable says so"),
        (None, "unknown", "the billing callable could not tell"),
        (Balance(limit=1.0, used=1.0), "gone", "used up: 1.00 of 1.00 USD used"),
        (Balance(left=1.0), "good", ""),
        (Verdict("gone", "closed by the bank"), "gone", "closed by the bank"),
    ],
)
async def test_a_callable_of_the_users_own_may_judge(told: Told, fate: str, reason: str) -> None:
    heard: list[str] = []

    async def ask(secret: str) -> Told:
        heard.append(secret)
        return told

    pool = MemoryKeyPool(["sk-one"])
    accounts = KeyAccounts(pool, Asks(ask), FakeUpstream(), clock=lambda: NOW)
    verdict = await accounts.check(key_of(pool, "sk-one"))
    assert (verdict.fate, verdict.reason) == (fate, reason)
    assert heard == ["sk-one"]


async def test_a_key_is_given_up_on_after_its_patience() -> None:
    host = BillingHost({}, {SUBSCRIPTION: Reply(head=[HANG])})
    accounts, key, upstream = one_key(host, patience=0.05)
    assert await accounts.check(key) == Verdict("unknown", "no answer within 0.05 s")
    with pytest.raises(CannotTell, match="no answer within"):
        await accounts.balance(key)
    assert upstream.sending == 0


async def test_a_cancelled_question_leaves_nothing_open() -> None:
    host = BillingHost({}, {SUBSCRIPTION: Reply(200, steps=[b"{", HANG])})
    accounts, key, upstream = one_key(host)
    task = asyncio.create_task(accounts.check(key))
    await until(lambda: upstream.open)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not upstream.open


class Refreshed:
    """Credentials whose access tokens are given; each is renewed into the next."""

    def __init__(self, tokens: Iterable[str], fails: Exception | None = None) -> None:
        self.tokens = list(tokens)
        self.fails = fails

    async def secret(self, key: Key) -> str:
        if self.fails is not None:
            raise self.fails
        return self.tokens[0]

    async def renew(self, key: Key, refused: str) -> bool:
        assert refused == self.tokens[0]
        if len(self.tokens) == 1:
            return False
        del self.tokens[0]
        return True

    async def aclose(self) -> None: ...


async def test_a_refused_access_token_is_renewed_before_its_refresh_token_is_given_up() -> None:
    host = BillingHost({"at-new": Account()}, {SUBSCRIPTION: Reply.error(404)})
    accounts, key, _ = one_key(host, credentials=Refreshed(["at-old", "at-new"]))
    assert (await accounts.check(key)).fate == "good"
    assert set(host.keys) == {"at-old", "at-new"}
    accounts, key, _ = one_key(host, credentials=Refreshed(["at-old"]))
    assert (await accounts.check(key)).fate == "gone"


async def test_a_revoked_refresh_token_is_gone_and_a_token_host_that_is_down_cannot_tell() -> None:
    for failure, fate in [(KeyRevoked("revoked"), "gone"), (ConnectFailed("down"), "unknown")]:
        accounts, key, upstream = one_key(BillingHost({}), credentials=Refreshed([], failure))
        assert (await accounts.check(key)).fate == fate
        assert upstream.asked == []


async def test_without_a_page_there_is_no_balance_and_no_verdict() -> None:
    pool = MemoryKeyPool(["sk-one"])
    accounts = KeyAccounts(pool, None, FakeUpstream())
    key = key_of(pool, "sk-one")
    assert (await accounts.check(key)).fate == "unknown"
    with pytest.raises(CannotTell, match="no billing page"):
        await accounts.balance(key)


async def test_listing_models_tells_no_balance() -> None:
    accounts, key, _ = one_key(BillingHost({"sk-one": Account()}), billing="models")
    with pytest.raises(CannotTell, match="tells no balance"):
        await accounts.balance(key)


async def test_a_pool_can_be_asked_itself_once_it_is_known_how() -> None:
    host = BillingHost({"sk-one": Account(limit=5, used_cents=125)})
    pool = MemoryKeyPool(["sk-one"])
    key = key_of(pool, "sk-one")
    with pytest.raises(ConfigurationError, match="nobody was told how to ask"):
        await pool.balance(key)
    accounts_at(FakeUpstream(host), pool)
    assert (await pool.balance(key)).left == 3.75
    assert await pool.usage(key, date(2026, 11, 1), date(2026, 11, 2)) == 1.25
