"""The sweep as a running gateway does it: which keys go, who is told, and what is known of the
rest, with a billing host on a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway import Channel, Gateway
from asgi_llm_gateway.cli import main
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.upkeep import Upkeep
from tests.keys_sweep.billing_host import MODELS, SUBSCRIPTION, USAGE, Account, BillingHost
from tests.served import served
from tests.shared_state.gateways import gateway, pool, secrets, settings, until, write
from tests.upstreams import Reply
from tests.valkey import Valkey

GOOD, EXPIRED, EMPTY, USED_UP, INVALID, UNTOLD = (
    f"sk-{what}" for what in ("good", "expired", "without-limit", "used-up", "invalid", "untold")
)
ACCOUNTS = {
    GOOD: Account(limit=5, used_cents=125),
    EXPIRED: Account(limit=5, until=1_600_000_000),
    EMPTY: Account(limit=0),
    USED_UP: Account(limit=5, used_cents=500),
    INVALID: Account(valid=False),
    UNTOLD: Account(limit="a lot"),
}
"""What the billing host says of each; of the last one nothing that can be read."""


def host() -> BillingHost:
    found = BillingHost(dict(ACCOUNTS))

    def subscription(asked: Any) -> Reply:
        if asked.key == INVALID:
            return Reply.error(401)
        account = found.accounts[asked.key]
        return Reply.json({"hard_limit_usd": account.limit, "access_until": account.until})

    found.pages[SUBSCRIPTION] = subscription
    return found


@asynccontextmanager
async def on_a_socket(billing: BillingHost) -> AsyncIterator[str]:
    serving = served(billing.app)
    base = await asyncio.to_thread(serving.__enter__)
    try:
        yield f"{base}/v1"
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)


def channel(base_url: str, **more: Any) -> dict[str, Any]:
    given = {"name": "a", "base_url": base_url, "models": ["*"], "billing": "dashboard"}
    return {**given, "keys": list(ACCOUNTS), **more}


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, valkey: Valkey) -> str:
    return valkey.url if request.param == "redis" else "memory://"


async def test_what_is_gone_goes_the_rest_stays_and_the_hook_is_told(store: str) -> None:
    told: list[tuple[str, str]] = []

    def hook(key: Key, reason: str) -> None:
        told.append((key.secret, reason))

    billing = host()
    async with on_a_socket(billing) as base:
        upkeep = Upkeep(sweep=0.2, on_removed=[hook])
        async with Gateway([Channel(**channel(base))], state=store, keys=upkeep) as one:
            await until(lambda: len(told) >= 4)
            seen = sum(billing.keys.values())
            await until(lambda: sum(billing.keys.values()) > seen + 6)  # another round
            assert await secrets(one) == {GOOD, UNTOLD}
            assert {secret for secret, _ in told} == {EXPIRED, EMPTY, USED_UP, INVALID}
            assert len(told) == 4, "once each"
            gone = {lost.fingerprint for lost in await pool(one).quarantined()}
            assert gone == {Key(secret).fingerprint for secret, _ in told}
            asked = billing.keys[EXPIRED]
            await asyncio.sleep(0.5)
            assert billing.keys[EXPIRED] == asked, "nobody asks about what is gone"


async def test_balances_and_usage_can_be_read_from_the_pool_and_the_command_line(
    valkey: Valkey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    billing = host()
    async with on_a_socket(billing) as base:
        table = channel(base, keys=[GOOD])
        async with gateway(valkey, table, keys={"sweep": 0.2}) as one:
            keys: Any = pool(one)
            await until(lambda: billing.asked[USAGE] >= 2)
            known = (await keys.balances())[Key(GOOD).fingerprint]
            assert (known.limit, known.used, known.left) == (5.0, 1.25, 3.75)
            today = date.today()
            assert (await keys.balance(Key(GOOD))).left == 3.75
            assert await keys.usage(Key(GOOD), today - timedelta(days=9), today) == 1.25
            file = write(tmp_path / "shell", settings(valkey, table))
            listing = ["keys", "list", "--json", "--file", str(file)]
            assert await asyncio.to_thread(main, listing) == 0
            (row,) = json.loads(capsys.readouterr().out)
            assert row["balance"]["left"] == 3.75


async def test_of_two_gateways_on_one_store_one_sweeps_and_the_other_goes_by_it(
    valkey: Valkey,
) -> None:
    billing = host()
    async with on_a_socket(billing) as base:
        table, often = channel(base), {"sweep": 0.3}
        async with gateway(valkey, table, keys=often), gateway(valkey, table, keys=often) as two:
            began = asyncio.get_running_loop().time()
            await until(lambda: billing.keys[GOOD] >= 6)  # two pages a round
            rounds = (asyncio.get_running_loop().time() - began) / 0.27 + 1
            assert billing.keys[GOOD] <= 2 * rounds + 2
            assert await secrets(two) == {GOOD, UNTOLD}


async def test_a_billing_host_that_fails_in_any_way_costs_no_key(store: str) -> None:
    failing = BillingHost({GOOD: Account()})
    replies = [Reply.error(status) for status in (401, 403, 404, 429, 500, 503)]
    replies += [Reply.json(b"<html>"), Reply.json([]), Reply.json({}), Reply.json(b"")]
    left = list(replies)
    failing.pages[SUBSCRIPTION] = lambda asked: left.pop() if len(left) > 1 else left[0]
    failing.pages[MODELS] = Reply.error(500)
    async with (
        on_a_socket(failing) as base,
        gateway(store, channel(base, keys=[GOOD]), keys={"sweep": 0.05}) as one,
    ):
        await until(lambda: len(left) == 1)
        await asyncio.sleep(0.2)
        assert await secrets(one) == {GOOD}


async def test_channels_that_came_with_a_reload_are_swept_too(store: str) -> None:
    billing = host()
    async with on_a_socket(billing) as base:
        often = {"sweep": 0.2}
        async with gateway(store, channel(base, keys=[GOOD]), keys=often) as one:
            more = channel(base, name="b", keys=[USED_UP, GOOD])
            one.reload(settings(store, channel(base, keys=[GOOD]), more, keys=often))
            async with asyncio.timeout(10):
                while await secrets(one, "b") != {GOOD}:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def test_no_sweep_asks_nobody(store: str) -> None:
    billing = host()
    async with (
        on_a_socket(billing) as base,
        gateway(store, channel(base), keys={"sweep": False}) as one,
    ):
        await asyncio.sleep(0.5)
        assert await secrets(one) == set(ACCOUNTS)
    assert not billing.keys
