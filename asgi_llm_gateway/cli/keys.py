"""`llm-gateway keys`: look after the keys in a shared store, beside a running gateway."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from ..channels.accounts import accounts_of
from ..errors import ConfigurationError, StateUnavailable, UpstreamError
from ..keys.key import Key
from ..settings import Settings, read_settings
from ..state import StateFault
from .files import settings_file
from .key_names import named_fingerprints, secrets_given
from .key_pools import Kept, kept_channels
from .key_tables import Row, list_of_balances, list_of_keys

_AT_A_TIME = 4
"""Questions to providers."""


def run(given: argparse.Namespace) -> int:
    """Do what was asked; raises ConfigurationError, above all where there is no shared store."""
    settings = read_settings(settings_file(given.file))
    # What pools log is told on standard output, in other words.
    logging.getLogger("asgi_llm_gateway").addHandler(logging.NullHandler())
    try:
        return asyncio.run(_run(given, settings))
    except (StateUnavailable, StateFault) as failure:
        raise ConfigurationError(f"{settings.source}: state.store: {failure}") from failure


async def _run(given: argparse.Namespace, settings: Settings) -> int:
    async with AsyncExitStack() as stack:
        channels = kept_channels(settings)
        for kept in channels:
            stack.push_async_callback(kept.channel.upstream.aclose)
            await kept.channel.open(stack)
        known = ", ".join(kept.name for kept in channels) or "none"
        if given.channel is not None:
            channels = [kept for kept in channels if kept.name == given.channel]
            if not channels:
                raise ConfigurationError(
                    f"{settings.source}: no channel with keys is named {given.channel!r}; "
                    f"there are: {known}"
                )
        return await _ACTIONS[given.action](given, channels)


async def _list(given: argparse.Namespace, channels: Sequence[Kept]) -> int:
    rows: list[Row] = []
    for kept in channels:
        balances = await kept.pool.balances()
        for key in await kept.keys():
            balance, day = balances.get(key.fingerprint), await kept.pool.day_use(key)
            rows.append(Row(kept.name, key.fingerprint, balance, day))
        for lost in await kept.pool.quarantined():
            balance = balances.get(lost.fingerprint)
            rows.append(Row(kept.name, lost.fingerprint, balance, lost=lost))
    print(list_of_keys(rows, as_json=given.json))
    return 0


async def _add(given: argparse.Namespace, channels: Sequence[Kept]) -> int:
    if len(channels) != 1:
        known = ", ".join(kept.name for kept in channels) or "none"
        raise ConfigurationError(
            f"say which channel the keys are for, with --channel NAME; there are: {known}"
        )
    (kept,) = channels
    secrets = secrets_given(given.sources, plain=given.plain)
    before = {key.fingerprint for key in await kept.keys()}
    await kept.pool.add(secrets)
    for fingerprint in (Key(secret).fingerprint for secret in secrets):
        was_there = " (and was before)" if fingerprint in before else ""
        print(f"{fingerprint} is in use in channel {kept.name}{was_there}")
    return 0


async def _remove(given: argparse.Namespace, channels: Sequence[Kept]) -> int:
    async def take_out(kept: Kept, fingerprint: str) -> bool:
        key = await kept.key(fingerprint)
        if key is None:
            return False
        await kept.pool.remove(key, given.reason)
        # A pool bears with a store that is away; this process ends before it could tell it later.
        return fingerprint in (lost.fingerprint for lost in await kept.pool.quarantined())

    return await _each(given, channels, take_out, "is out of use in", "is in use in no channel")


async def _restore(given: argparse.Namespace, channels: Sequence[Kept]) -> int:
    async def bring_back(kept: Kept, fingerprint: str) -> bool:
        return await kept.pool.restore(fingerprint)

    missed = "is in no channel's quarantine"
    return await _each(given, channels, bring_back, "is in use again in", missed)


async def _each(
    given: argparse.Namespace,
    channels: Sequence[Kept],
    do: Callable[[Kept, str], Awaitable[bool]],
    done: str,
    missed: str,
) -> int:
    """Do it to every key named, in every channel that has it; 1 when one is in none."""
    code = 0
    for fingerprint in named_fingerprints(given.keys, plain=given.plain):
        found = [kept.name for kept in channels if await do(kept, fingerprint)]
        for name in found:
            print(f"{fingerprint} {done} channel {name}")
        if not found:
            print(f"llm-gateway: {fingerprint} {missed}", file=sys.stderr)
            code = 1
    return code


async def _balance(given: argparse.Namespace, channels: Sequence[Kept]) -> int:
    """Ask the providers now; what they say is kept, and no key is taken out for it."""
    wanted = named_fingerprints(given.keys, plain=given.plain)
    asked = [
        (kept, key)
        for kept in channels
        for key in await kept.keys()
        if not wanted or key.fingerprint in wanted
    ]
    limit = asyncio.Semaphore(_AT_A_TIME)
    rows = await asyncio.gather(*(_ask(kept, key, limit) for kept, key in asked))
    print(list_of_balances(rows, as_json=given.json))
    missed = set(wanted) - {row.fingerprint for row in rows}
    for fingerprint in sorted(missed):
        print(f"llm-gateway: {fingerprint} is in use in no channel", file=sys.stderr)
    return 1 if missed else 0


async def _ask(kept: Kept, key: Key, limit: asyncio.Semaphore) -> Row:
    accounts = accounts_of(kept.channel)
    if accounts is None:
        return Row(kept.name, key.fingerprint, problem="nothing is asked about this channel's keys")
    async with limit:
        try:
            balance = await accounts.balance(key)
        except UpstreamError as failure:
            return Row(kept.name, key.fingerprint, problem=failure.message)
    return Row(kept.name, key.fingerprint, balance)


Action = Callable[[argparse.Namespace, Sequence[Kept]], Awaitable[int]]
_ACTIONS: Mapping[str, Action] = {
    "add": _add,
    "balance": _balance,
    "list": _list,
    "remove": _remove,
    "restore": _restore,
}
