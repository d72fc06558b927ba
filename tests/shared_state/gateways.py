"""Gateways by their settings on one store: in this process, or served by one of their own.

async with gateway(store, provider, keys=["sk-1"]) as one, gateway(store, provider) as two: ...
async with process(folder, store, provider, keys=["sk-1"]) as served: ...
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from asgi_llm_gateway import Gateway
from asgi_llm_gateway.keys.pool import ManagedPool
from tests.asgi import Answer
from tests.cli.process import Served, serving
from tests.faulty import Provider
from tests.upstreams import ASK, ask
from tests.valkey import Valkey

QUIET = {"billing": "none"}
"""Channels whose keys the sweep asks nobody about: a Provider has no page for that."""


def settings(store: Valkey | str, *channels: Mapping[str, Any], **tables: Any) -> dict[str, Any]:
    """A settings document that everybody may call by; `tables` are its other tables."""
    url = store if isinstance(store, str) else store.url
    return {
        "auth": {"anonymous": True},
        "state": {"store": url},
        "channels": [dict(channel) for channel in channels],
        **tables,
    }


def leading_to(provider: Provider, **config: Any) -> dict[str, Any]:
    """A channel's table; it is called `a` and has two keys unless that is said otherwise."""
    name = config.get("name", "a")
    keys = [f"sk-{name}-key-1", f"sk-{name}-key-2"]
    given = {"name": name, "models": ["*"], "keys": keys, "base_url": provider.base_url}
    return {**given, **QUIET, **config}


@asynccontextmanager
async def gateway(
    store: Valkey | str, *channels: Mapping[str, Any], **tables: Any
) -> AsyncIterator[Gateway]:
    """One that runs in this event loop, made by `Gateway.from_settings`."""
    made = Gateway.from_settings(settings(store, *channels, **tables), environ={})
    async with made:
        yield made


@asynccontextmanager
async def process(
    folder: Path,
    store: Valkey | str,
    *channels: Mapping[str, Any],
    environ: Mapping[str, str] = MappingProxyType({}),
    **tables: Any,
) -> AsyncIterator[Served]:
    """One that `llm-gateway serve` runs in a process of its own; `folder` gets its settings."""
    write(folder, settings(store, *channels, **{"server": {"port": 0}, **tables}))
    async with AsyncExitStack() as stack:
        # In threads: this loop goes on serving those whom the process asks.
        starting = serving("serve", cwd=folder, **environ)
        served = await asyncio.to_thread(starting.__enter__)
        stack.push_async_callback(asyncio.to_thread, starting.__exit__, None, None, None)
        yield served


def write(folder: Path, document: Mapping[str, Any]) -> Path:
    """The document as `gateway.toml` in the folder."""
    folder.mkdir(exist_ok=True)
    file = folder / "gateway.toml"
    file.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in document.items()))
    return file


def _toml(value: Any) -> str:
    """A value as TOML writes it: inline tables, JSON's texts and numbers."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


async def posted(client: httpx.AsyncClient, served: Served, **members: Any) -> httpx.Response:
    """One chat call to a gateway in a process of its own."""
    url = f"{served.base_url}/chat/completions"
    return await client.post(url, json={**ASK, **members}, timeout=30)


async def asked(one: Gateway, times: int, **how: Any) -> list[Answer]:
    """So many calls, one after the other."""
    return [await ask(one, **how) for _ in range(times)]


def pool(one: Gateway, name: str = "a") -> ManagedPool:
    """The keys of a channel of a running gateway."""
    assert one.relay.channels is not None
    found = one.relay.channels.by_name[name].pool
    assert isinstance(found, ManagedPool)
    return found


async def secrets(one: Gateway, name: str = "a") -> set[str]:
    """The keys in use."""
    return {key.secret for key in await pool(one, name).all()}


def everything_in(store: Valkey) -> list[tuple[bytes, bytes]]:
    """Every key of the store, and whatever it holds in one piece."""
    found = []
    for name in store.call("KEYS", "*"):
        kind = store.call("TYPE", name)
        read: Mapping[bytes, tuple[Any, ...]] = {
            b"string": ("GET", name),
            b"hash": ("HGETALL", name),
            b"set": ("SMEMBERS", name),
            b"zset": ("ZRANGE", name, 0, -1, "WITHSCORES"),
            b"list": ("LRANGE", name, 0, -1),
        }
        found.append((name, b"\n".join(_flat(store.call(*read[kind])))))
    return found


def _flat(held: Any) -> Iterator[bytes]:
    """Every piece of an answer; hashes come as dictionaries, sorted sets as pairs."""
    if isinstance(held, Mapping):
        held = held.items()
    if isinstance(held, Iterable) and not isinstance(held, bytes):
        for piece in held:
            yield from _flat(piece)
    else:
        yield held if isinstance(held, bytes) else str(held).encode()


def held(store: Valkey) -> int:
    """Slots of keys that are taken; those whose lease is over stand there until somebody looks."""
    now = time.time() * 1000
    names = store.call("KEYS", "*:held:*")
    return sum(int(store.call("ZCOUNT", name, now, "+inf")) for name in names)


async def served_by(one: Gateway, channel: str, within: float = 20.0) -> None:
    """Call until that channel answers."""
    async with asyncio.timeout(within):
        while (await ask(one)).header("x-llm-channel") != channel:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until(happened: Callable[[], Any], within: float = 10.0) -> None:
    """Wait until it has happened; asking the store from outside now and then is cheap enough."""
    async with asyncio.timeout(within):
        while not happened():  # noqa: ASYNC110 - what is waited for knows nothing of the test
            await asyncio.sleep(0.02)
