"""The TLS settings all connections of one upstream share."""

from __future__ import annotations

import asyncio
import ssl
import threading

import certifi

__all__ = ["Tls", "client_context"]


def client_context() -> ssl.SSLContext:
    """Trust of the system with certifi's behind it, host names checked, HTTP/1.1 by ALPN.

    certifi's roots are added because slim containers often have none of their own. Takes some
    50 ms of CPU.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


class Tls:
    """One SSLContext, built in a thread when the first https connection is made."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._lock = threading.Lock()

    async def context(self) -> ssl.SSLContext:
        """The shared context; loops and calls that ask at the same time get the same one."""
        if self._context is not None:
            return self._context
        return await asyncio.get_running_loop().run_in_executor(None, self._build)

    def _build(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = client_context()
            return self._context
