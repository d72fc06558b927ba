"""An error counts by its status, however much the provider has to say about it.

Servers that validate with pydantic repeat the caller's input: it can be of any length.
"""

from __future__ import annotations

import gzip
import json

import pytest

from asgi_llm_gateway import Relay
from tests.upstreams import FakeUpstream, Reply, ask, channel_to, relay_to

LONG = {"detail": [{"loc": ["body"], "msg": "bad", "input": "x" * 300_000}]}


@pytest.mark.parametrize("status", [400, 422])
async def test_a_callers_error_stays_the_callers_and_harms_no_channel(status: int) -> None:
    upstream, other = FakeUpstream(Reply.json(LONG, status)), FakeUpstream()
    relay = Relay([channel_to(upstream, priority=5), channel_to(other, name="b")])
    for _ in range(6):
        answer = await ask(relay)
        assert answer.status == status
        assert json.loads(answer.body)["error"]["message"]
    assert not other.asked
    assert relay.health.states() == []


async def test_a_dead_key_is_taken_out() -> None:
    upstream = FakeUpstream(Reply.json(LONG, 401))
    relay = relay_to(upstream)
    await ask(relay)
    await ask(relay)
    assert len(upstream.asked) == 1


async def test_a_compressed_error_too() -> None:
    headers = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]
    steps = [gzip.compress(json.dumps(LONG).encode())]
    answer = await ask(relay_to(FakeUpstream(Reply(status=400, headers=headers, steps=steps))))
    assert answer.status == 400
