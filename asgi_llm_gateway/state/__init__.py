"""What the processes of one gateway share: a store by its URL, one batched connection per loop.

state = State("redis://localhost/0")
await state.command("INCR", state.name("calls"))
await state.run(Script.of("asgi_llm_gateway.keys", "take.lua"), keys=[...], args=[...])
"""

from .faults import StateFault
from .lease import Lease
from .script import Script
from .store import OnFailure, State
from .url import StoreURL

__all__ = ["Lease", "OnFailure", "Script", "State", "StateFault", "StoreURL"]
