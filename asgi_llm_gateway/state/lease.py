"""A task that only one of several workers may do at a time."""

from __future__ import annotations

import secrets

from .script import Script
from .store import State


class Lease:
    """Held by one worker until it is given back or, after a death, for `seconds`.

    Renewing is taking again. Without a shared store there is no other worker, and it is always
    ours. `owner` is for several leases of one worker. take and give_back raise StateUnavailable.
    """

    def __init__(
        self, state: State | None, name: str, seconds: float = 30.0, *, owner: str | None = None
    ) -> None:
        self.seconds = seconds
        self._state = state if state is not None and state.shared else None
        self._owner = owner or secrets.token_hex(16)
        self._key = "" if self._state is None else self._state.name("lease", f"{{{name}}}")
        self._script = Script.of("asgi_llm_gateway.state", "lease.lua")

    async def take(self) -> bool:
        """Take it or hold it for `seconds` more; False while another worker has it."""
        return await self._run(max(1, round(self.seconds * 1000)))

    async def give_back(self) -> bool:
        """Let others have it at once; False when it was not ours any more, and nothing changes."""
        return await self._run(0)

    async def _run(self, milliseconds: int) -> bool:
        if self._state is None:
            return True
        reply = await self._state.run(self._script, [self._key], [self._owner, milliseconds])
        return bool(reply)
