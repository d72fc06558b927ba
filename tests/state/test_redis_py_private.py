"""What we use of redis-py although it is private there. If one of these fails after an upgrade,
state/opening.py (the first three) or state/cluster.py (the rest) has to be read again."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from typing import Any

import pytest
import redis.asyncio as redis
from redis.asyncio.cluster import NodesManager, PipelineStrategy

from asgi_llm_gateway.state import StoreURL
from asgi_llm_gateway.state.cluster import _client
from asgi_llm_gateway.state.opening import _take_over
from tests.valkey import Valkey, ValkeyCluster


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_connection_keeps_its_stream_in_reader_and_writer(
    valkey: Valkey, kind: str
) -> None:
    connection: Any = (
        redis.Connection(port=valkey.port, protocol=2)
        if kind == "tcp"
        else redis.UnixDomainSocketConnection(path=str(valkey.unix_path), protocol=2)
    )
    await connection.connect()
    assert isinstance(connection._reader, asyncio.StreamReader)
    assert isinstance(connection._writer, asyncio.StreamWriter)
    assert isinstance(connection._writer.transport, asyncio.Transport)
    assert connection.is_connected
    await connection.disconnect()


async def test_a_connection_that_was_taken_over_opens_another_and_warns_of_nothing(
    valkey: Valkey,
) -> None:
    connection: Any = redis.Connection(port=valkey.port, protocol=2)
    writers = []
    for _ in range(2):
        await connection.connect()
        writers.append(_take_over(connection))
        assert not connection.is_connected
    assert writers[0] is not writers[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del connection
    for writer in writers:
        writer.close()
        await writer.wait_closed()


async def test_connecting_reads_every_answer_it_has_asked_for(valkey: Valkey) -> None:
    valkey.call("ACL", "SETUSER", "u", "on", ">pw", "~*", "+@all")
    connection: Any = redis.Connection(
        port=valkey.port, protocol=2, username="u", password="pw", db=2, socket_timeout=5
    )
    await connection.connect()
    await asyncio.sleep(0.05)
    assert connection._reader is not None
    assert not connection._reader._buffer
    await connection.disconnect()


async def test_a_cluster_client_without_retries_sends_nothing_twice(
    valkey_cluster: ValkeyCluster,
) -> None:
    client = _client(StoreURL.parse(valkey_cluster.url), 1.0, 2.0)
    assert client.retry.get_retries() == 0
    source = inspect.getsource(PipelineStrategy.execute)
    assert "retry_attempts = self._pipe.cluster_client.retry.get_retries()" in source
    assert "if retry_attempts > 0:" in source
    await client.initialize()
    slot = client.keyslot("a")
    assert isinstance(client.nodes_manager, NodesManager)
    assert client.nodes_manager.get_node_from_slot(slot).name.startswith("127.0.0.1:")
    await client.nodes_manager.initialize()
    await client.aclose()


async def test_a_cluster_client_answers_as_it_was_answered_once_its_callbacks_are_gone(
    valkey_cluster: ValkeyCluster,
) -> None:
    client = _client(StoreURL.parse(valkey_cluster.url), 1.0, 2.0)
    pipeline = client.pipeline()
    pipeline.execute_command("HSET", "h", "a", 1)
    pipeline.execute_command("HGETALL", "h")
    pipeline.execute_command("EVAL", "return KEYS[1]", 1, "k")
    assert await pipeline.execute(raise_on_error=False) == [1, [b"a", b"1"], b"k"]
    await client.aclose()
