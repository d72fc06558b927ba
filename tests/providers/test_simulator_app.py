"""The simulator's models and keys, what it writes down, and how it is an ASGI app."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from asgi_llm_gateway.providers.simulator import Simulator
from tests.providers.simulated import Call, chat, get, post


async def test_models_are_listed_and_looked_up() -> None:
    simulator = Simulator(models=["one", "org/two", "many-*"])
    listed = (await get(simulator, "/v1/models")).json
    assert [entry["id"] for entry in listed["data"]] == ["one", "org/two"]
    assert (await get(simulator, "/v1/models/org/two")).json["id"] == "org/two"
    assert (await get(simulator, "/v1/models/many-x")).json["object"] == "model"
    missing = await get(simulator, "/v1/models/other")
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")


async def test_a_model_it_does_not_have_is_a_404() -> None:
    sent = await post(Simulator(models=["one"]), "/v1/chat/completions", chat())
    assert (sent.status, sent.json["error"]["code"]) == (404, "model_not_found")
    assert "`gpt-4o`" in sent.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/rerank", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/files", 405),
        ("DELETE", "/v1/files/f/content", 405),
        ("POST", "/v1/models", 405),
    ],
)
async def test_other_routes_are_openais_404_and_405(method: str, path: str, status: int) -> None:
    sent = await get(Simulator(), path, method)
    assert sent.status == status
    assert path in sent.json["error"]["message"]


@pytest.mark.parametrize("prefix", ["", "/v1", "/openai/v1", "/a/b/v1beta"])
async def test_it_answers_under_any_prefix(prefix: str) -> None:
    assert (await post(Simulator(), f"{prefix}/chat/completions", chat())).status == 200
    assert (await get(Simulator(), f"{prefix}/models")).status == 200


async def test_only_its_own_keys_are_let_in_and_others_are_shown_masked() -> None:
    simulator = Simulator(keys=["sk-good"])
    path = "/v1/chat/completions"
    assert (await post(simulator, path, chat(), key="sk-good")).status == 200
    refused = await post(simulator, path, chat(), key="sk-abcdefghijklmnop-wxyz")
    assert refused.status == 401
    assert refused.json["error"]["code"] == "invalid_api_key"
    assert refused.json["error"]["message"].startswith("Incorrect API key provided: sk-abcd****")
    assert "efgh" not in refused.json["error"]["message"]
    assert (await post(simulator, path, chat(), key=None)).status == 401
    assert (await post(Simulator(), path, chat(), key=None)).status == 200


async def test_calls_are_written_down_and_the_oldest_forgotten() -> None:
    simulator = Simulator(keep_bodies=200)
    await post(simulator, "/v1/chat/completions", chat(stream=True))
    await post(simulator, "/v1/chat/completions", chat("x" * 500))
    small, large = simulator.calls
    assert (small.key, small.model, small.stream, small.endpoint) == (
        "sk-test",
        "gpt-4o",
        True,
        "chat",
    )
    assert (small.status, small.disconnected, small.dropped) == (200, False, False)
    assert small.size == len(small.body)
    assert small.events > 16
    assert (large.body, large.size > 500) == (b"", True)
    assert (b"authorization", b"Bearer sk-test") in small.headers
    assert "sk-test" not in repr(small)
    assert simulator.calls.maxlen == 10_000


async def test_it_takes_part_in_the_lifespan_protocol() -> None:
    incoming = ["lifespan.startup", "lifespan.shutdown"]
    outgoing: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": incoming.pop(0)}

    async def send(message: Any) -> None:
        outgoing.append(message["type"])

    await Simulator()({"type": "lifespan"}, receive, send)
    assert outgoing == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_scope_it_does_not_know_is_an_error_as_asgi_asks() -> None:
    call = Call()
    with pytest.raises(NotImplementedError, match="websocket"):
        await Simulator()({"type": "websocket"}, call.receive, call.send)


async def test_httpx_can_call_it_in_process() -> None:
    transport = httpx.ASGITransport(app=Simulator())
    async with httpx.AsyncClient(transport=transport, base_url="http://sim/v1") as client:
        answer = await client.post("/chat/completions", json=chat())
        assert answer.json()["object"] == "chat.completion"
        files = {"file": ("a.wav", b"1234")}
        heard = await client.post("/audio/transcriptions", data={"model": "whisper-1"}, files=files)
        assert heard.json()["text"] == "The file a.wav holds 4 bytes."
