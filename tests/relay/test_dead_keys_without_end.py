"""A pool that makes up a new key for every one that dies cannot hold a call for ever."""

from __future__ import annotations

from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from tests.upstreams import FakeUpstream, Reply, ask, relay_to


class Endless(MemoryKeyPool):
    """Always has one more key, and every one of them is dead."""

    made = 0

    async def take(self, exchange: object, tried: object = (), **how: object) -> Key | None:  # type: ignore[override]
        self.made += 1
        return Key(f"sk-{self.made}")

    async def remove(self, key: Key, reason: str) -> None:
        return None


async def test_a_call_gives_up_after_so_many_dead_keys() -> None:
    refusals = [Reply.error(401, "bad key") for _ in range(200)]
    upstream = FakeUpstream(*refusals)
    pool = Endless(["sk-0"])
    answer = await ask(relay_to(upstream, keys=pool))
    assert answer.status == 503
    assert len(upstream.asked) < 70
