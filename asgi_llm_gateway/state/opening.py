"""redis-py opens connections (names, TLS, AUTH, SELECT, sentinels); we take them over.

What is private in redis-py and used here is pinned by tests/state/test_redis_py_private.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from .faults import why
from .url import StoreURL

__all__ = ["CannotOpen", "Opener", "login", "tls_options"]


class CannotOpen(Exception):
    """No connection; the text says why, for the log, and holds no password."""


class Opener:
    """Makes connections to one server, or to whichever a service's sentinels name as master.

    Belongs to one event loop. RESP2, so that answers look the same through a cluster's pipeline,
    a proxy or an old server.
    """

    def __init__(self, url: StoreURL, *, connect_timeout: float) -> None:
        self._url = url
        self._timeout = connect_timeout
        # One object for good: it keeps its TLS context, which takes 50 ms of CPU to make.
        self._connection = self._make()

    async def open(self) -> asyncio.StreamWriter:
        """A connection that is logged in, and as yet unused; CannotOpen within the timeout."""
        connection = self._connection
        try:
            async with asyncio.timeout(self._timeout):
                if self._url.kind == "sentinel":
                    connection.host, connection.port = await self._master()
                await connection.connect()
        except (redis.RedisError, OSError, TimeoutError) as failure:
            await connection.disconnect(nowait=True)
            raise CannotOpen(f"cannot connect: {why(failure)}") from failure
        except BaseException:  # cancelled: nobody else will close it
            await connection.disconnect(nowait=True)
            raise
        return _take_over(connection)

    def _make(self) -> Any:
        url = self._url
        options: dict[str, Any] = {
            **login(url.user, url.password),
            "db": url.db,
            "protocol": 2,
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
        }
        if url.kind == "unix":
            return redis.UnixDomainSocketConnection(path=url.path, **options)
        host, port = url.hosts[0]
        if url.tls:
            return redis.SSLConnection(host=host, port=port, **options, **tls_options(url))
        return redis.Connection(host=host, port=port, **options)

    async def _master(self) -> tuple[str, int]:
        """Whom the sentinels say to write to (redis.io, "Redis Sentinel client spec")."""
        url = self._url
        share = self._timeout / len(url.hosts)  # a sentinel that is silent leaves time for others
        sentinel: Any = redis.Sentinel(  # type: ignore[no-untyped-call]
            url.hosts,
            sentinel_kwargs={
                **login(url.sentinel_user, url.sentinel_password),
                **({"ssl": True, **tls_options(url)} if url.tls else {}),
                "protocol": 2,
                "retry": Retry(NoBackoff(), 0),
                "socket_timeout": share,
                "socket_connect_timeout": share,
            },
        )
        try:
            host, port = await sentinel.discover_master(url.service)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return str(host), int(port)


def login(user: str, password: str) -> dict[str, str | None]:
    """The two as redis-py takes them."""
    return {"username": user or None, "password": password or None}


def tls_options(url: StoreURL) -> dict[str, Any]:
    """The URL's TLS options as redis-py names them."""
    return {
        "ssl_ca_certs": url.ca_file or None,
        "ssl_certfile": url.cert_file or None,
        "ssl_keyfile": url.key_file or None,
        "ssl_cert_reqs": "required" if url.verify else "none",
        "ssl_check_hostname": url.check_hostname and url.verify,
    }


def _take_over(connection: Any) -> asyncio.StreamWriter:
    """Part a connection of redis-py's from its socket: it may then open another.

    The one place that touches what is private there. Everything the server has said so far has
    been read: it speaks only when asked, and connect() awaits all of its answers.
    """
    writer: asyncio.StreamWriter = connection._writer
    connection._reader = connection._writer = None
    return writer
