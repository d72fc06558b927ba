"""The shared store as the rest of the house sees it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Literal, Protocol

from ..errors import ConfigurationError, StateUnavailable
from ..runtime import Resources
from .breaker import FAILURES, Breaker
from .faults import StateFault
from .gate import Gate
from .script import Script
from .url import StoreURL

__all__ = ["OnFailure", "State"]

Argument = bytes | str | int | float
OnFailure = Literal["open", "closed"]


class _Line(Protocol):
    """What carries commands: a Line, or a ClusterLine."""

    def call(self, args: tuple[Argument, ...]) -> asyncio.Future[Any]: ...

    def first_to_load(self, sha: str) -> bool: ...

    async def close(self) -> None: ...


class State:
    """A store by its URL, see url.py; one per gateway.

        state = State("redis://localhost/0", prefix="llm:")
        await state.command("GET", state.name("balance", "{alice}"))

    Opens nothing until it is used. What one event loop asks within one tick goes out as one
    write; every loop has a connection of its own. Answers are RESP2's: bytes, int, list, None.
    Never ask for what blocks, subscribes, or changes the connection (SELECT, MULTI, WATCH): it is
    shared with everybody.

    A command that may have reached the server is never sent again by itself. Only what was not
    yet written when a connection broke goes out on the next one. After StateUnavailable a caller
    must allow for both: carried out, and not.

    `timeout` is how long a command may take, `connect_timeout` how long a connection may, both in
    seconds; the URL's own win. After several failures in a row nothing is sent for a second or
    more and everybody gets StateUnavailable at once, until a single call has got through.

    `on_failure` is what pools of keys do then: "open" goes on with the settings' keys without
    limits, "closed" refuses calls (see RedisKeyPool).
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "llm:",
        timeout: float = 1.0,
        connect_timeout: float = 2.0,
        on_failure: OnFailure = "open",
    ) -> None:
        if on_failure not in ("open", "closed"):
            raise ConfigurationError('on_failure is "open" or "closed"')
        self.url = StoreURL.parse(url)
        self.on_failure: OnFailure = on_failure
        self.prefix = prefix
        self.timeout = self.url.timeout or timeout
        self.connect_timeout = self.url.connect_timeout or connect_timeout
        self.resources: Resources[_Line | None] = Resources(
            self._open, started_by="gateway.lifespan"
        )
        """The connection. Entering it connects to nothing yet: the store may come up later."""
        self._by_text = False

    def __repr__(self) -> str:
        return f"State({str(self.url)!r}, prefix={self.prefix!r})"

    @property
    def shared(self) -> bool:
        """Whether other processes see what is kept here; False for memory://, which keeps none."""
        return self.url.kind != "memory"

    def name(self, *parts: str) -> str:
        """A key of this gateway's. Keys that a script changes together share a {hash tag}."""
        return self.prefix + ":".join(parts)

    async def command(self, *args: Argument) -> Any:
        """One command, batched with all others of this loop's tick.

        Raises StateUnavailable when the store does not answer, StateFault when it refuses.
        """
        line = self.resources.current or await self._line()
        return await line.call(args)

    async def greet(self) -> bool:
        """Whether the store answers, asked when a gateway starts; takes one timeout at most.

        A store that does not is logged once and left alone like one that has failed often, so
        that nobody else who starts waits for it.
        """
        asked = [self.command("EXISTS", self.name("{hello}")) for _ in range(FAILURES)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        # A refusal of the command (StateFault) is an answer too.
        return not all(isinstance(answer, StateUnavailable) for answer in answers)

    async def run(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Argument] = ()
    ) -> Any:
        """A script, by its name where the store knows it, else by its text.

        Raises as `command`. NOSCRIPT (after a restart, a failover, SCRIPT FLUSH) says that nothing
        was done, so the call is made again: the first of a tick brings the text, and the others
        follow it on the same connection. A store or proxy without EVALSHA gets EVAL from then on.
        """
        line = self.resources.current or await self._line()
        tail = (len(keys), *keys, *args)
        for _ in range(2):
            if self._by_text:
                break
            try:
                return await line.call(("EVALSHA", script.sha, *tail))
            except StateFault as fault:
                if _forbids_names(fault):
                    self._by_text = True
                elif fault.kind != "NOSCRIPT":
                    raise
            if line.first_to_load(script.sha):
                break
        return await line.call(("EVAL", script.text, *tail))

    async def _line(self) -> _Line:
        line = await self.resources.get()
        if line is None:
            raise ConfigurationError("memory:// is not shared and takes no commands")
        return line

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[_Line | None]:
        if not self.shared:
            yield None
            return
        home = ".cluster" if self.url.kind == "cluster" else ".line"
        if "redis.asyncio" not in sys.modules:
            # Half a second of imports: not on the loop.
            load = asyncio.get_running_loop().run_in_executor
            await load(None, import_module, home, __package__)
        line = self._make_line()
        try:
            yield line
        finally:
            await line.close()

    def _make_line(self) -> _Line:
        if self.url.kind == "cluster":
            from .cluster import ClusterLine

            return ClusterLine(
                self.url,
                self._gate,
                timeout=self.timeout,
                connect_timeout=self.connect_timeout,
            )
        from .line import Line
        from .opening import Opener

        opener = Opener(self.url, connect_timeout=self.connect_timeout)
        return Line(opener.open, self._gate(""), timeout=self.timeout)

    def _gate(self, node: str) -> Gate:
        """The breaker of a server; `node` names one of a cluster."""
        patience = self.timeout + self.connect_timeout
        return Gate(f"{self.url} {node}".rstrip(), Breaker(patience=patience))


def _forbids_names(fault: StateFault) -> bool:
    """Whether the store, or a proxy before it, has no EVALSHA for us at all."""
    reply = fault.reply.lower()
    return "unknown command" in reply or (fault.kind == "NOPERM" and "evalsha" in reply)
