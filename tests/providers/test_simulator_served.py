"""The simulator on a real socket, and the official client against it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import openai
import pytest
import uvicorn

from asgi_llm_gateway.providers.simulator import Simulator
from tests.providers.simulated import chat

MESSAGES: Any = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def served(simulator: Simulator) -> AsyncIterator[str]:
    """Its base URL while uvicorn serves it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(simulator, log_level="critical"))
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it no other way
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        server.force_exit = True
        await task


async def test_a_served_reset_is_a_connection_that_dies_without_a_head() -> None:
    simulator = Simulator(faults={"gpt-4o": "reset"})
    async with served(simulator) as base, httpx.AsyncClient(base_url=base) as client:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await client.post("/chat/completions", json=chat())
    assert (simulator.calls[0].dropped, simulator.calls[0].disconnected) == (True, False)


async def test_a_served_stream_that_is_cut_has_all_its_events_and_no_end() -> None:
    simulator = Simulator(faults={"gpt-4o": "cut:4"})
    got = b""

    async def read(answer: httpx.Response) -> None:
        nonlocal got
        async for chunk in answer.aiter_bytes():
            got += chunk

    async with (
        served(simulator) as base,
        httpx.AsyncClient(base_url=base) as client,
        client.stream("POST", "/chat/completions", json=chat(stream=True)) as answer,
    ):
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await read(answer)
    assert got.count(b"\n\n") == 4


async def test_a_served_caller_who_leaves_is_noticed() -> None:
    simulator = Simulator(tokens_per_second=50, length=(1000, 1000))
    async with served(simulator) as base:
        async with (
            httpx.AsyncClient(base_url=base) as client,
            client.stream("POST", "/chat/completions", json=chat(stream=True)) as answer,
        ):
            await anext(answer.aiter_bytes())
        async with asyncio.timeout(5):
            while not simulator.calls[0].disconnected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def client_of(
    simulator: Simulator, key: str = "sk-test"
) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx2.ASGITransport(app=simulator)
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(
            api_key=key, base_url="http://sim/v1", http_client=http, max_retries=0
        ) as client,
    ):
        yield client


async def test_the_official_client_reads_chat_plain_streamed_and_with_tools() -> None:
    async with client_of(Simulator()) as client:
        plain = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == plain.choices[0].message.content
        assert chunks[-1].usage == plain.usage
        tool: Any = {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object"}},
        }
        called = await client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, tools=[tool], tool_choice="required"
        )
        calls: Any = called.choices[0].message.tool_calls
        assert calls
        assert calls[0].function.name == "f"
        old = await client.completions.create(model="gpt-4o", prompt="x")
        assert old.choices[0].finish_reason == "length"


async def test_the_official_client_assembles_responses() -> None:
    async with client_of(Simulator()) as client:
        plain = await client.responses.create(model="gpt-4o", input="hello")
        assert plain.usage
        assert plain.output_text
        async with client.responses.stream(model="gpt-4o", input="hello") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
        assert final.output_text == plain.output_text


async def test_the_official_client_reads_everything_else() -> None:
    async with client_of(Simulator()) as client:
        vectors = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        assert len(vectors.data[1].embedding) == 1536
        image = await client.images.generate(model="gpt-image-2", prompt="a cat")
        assert image.data
        assert image.data[0].b64_json
        edited = await client.images.edit(model="gpt-image-2", prompt="x", image=("a.png", b"1"))
        assert edited.data
        sound = await client.audio.speech.create(model="tts-1", voice="alloy", input="hello")
        assert sound.content.startswith(b"ID3")
        heard = await client.audio.transcriptions.create(
            model="whisper-1", file=("a.mp3", b"123"), response_format="verbose_json"
        )
        assert heard.text == "The file a.mp3 holds 3 bytes."
        assert heard.segments
        with pytest.warns(DeprecationWarning, match="deprecated"):
            said = await client.audio.translations.create(model="whisper-1", file=("a.mp3", b"123"))
        assert said.text == heard.text
        judged = await client.moderations.create(input="kill it")
        assert judged.results[0].categories.violence
        models = [model.id async for model in client.models.list()]
        assert "gpt-4o" in models
        assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
        kept = await client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
        assert (await client.files.content(kept.id)).content == b"{}"
        assert [entry.id async for entry in client.files.list()] == [kept.id]
        assert (await client.files.delete(kept.id)).deleted


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("400", openai.BadRequestError),
        ("401", openai.AuthenticationError),
        ("403", openai.PermissionDeniedError),
        ("404", openai.NotFoundError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
    ],
)
async def test_the_official_client_raises_the_right_error(
    fault: str, error: type[openai.APIStatusError]
) -> None:
    async with client_of(Simulator(faults={"sk-test": fault})) as client:
        with pytest.raises(error) as caught:
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert type(caught.value) is error
