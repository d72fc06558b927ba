"""What the official openai client does with a gateway, and what came of it, as JSON.

    python scenario.py BASE_URL sync|async

It needs nothing but the client (1.x or 3.x) and the standard library, so that each version can run
it in an environment of its own. The gateway has the models and tokens of `house.py`.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import io
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import openai

Facts = dict[str, Any]

MESSAGES: Any = [{"role": "user", "content": "tell me about rivers"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"river": {"type": "string"}}},
    },
}
FILE_SIZE = 3_000_000
MODES = ("sync", "async")


def client_of(base: str, mode: str, token: str = "sk-alice") -> Any:
    kind = openai.OpenAI if mode == "sync" else openai.AsyncOpenAI
    return kind(api_key=token, base_url=f"{base}/v1", max_retries=0, timeout=30)


async def done(value: Any) -> Any:
    """The value of a call, of either client."""
    return await value if inspect.isawaitable(value) else value


async def each(values: Any) -> AsyncIterator[Any]:
    """The items of a stream or a page, of either client."""
    if hasattr(values, "__aiter__"):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def error_of(call: Callable[[], Any]) -> Facts:
    """Which of the client's errors a call raises."""
    try:
        await done(call())
    except openai.APIError as error:
        response = getattr(error, "response", None)
        return {
            "class": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "code": error.code,
            "message": error.message,
            "retry_after": response.headers.get("retry-after") if response is not None else None,
            "request_id": getattr(error, "request_id", None),
        }
    return {"class": None}


async def chat(client: Any) -> Facts:
    create = client.chat.completions.create
    plain = await done(create(model="gpt-4o", messages=MESSAGES))
    raw = await done(
        client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=MESSAGES, extra_headers={"x-request-id": "mine-17"}
        )
    )
    ask: Any = {"model": "gpt-4o", "messages": MESSAGES, "stream": True}
    ask_usage = {**ask, "stream_options": {"include_usage": True}}
    return {
        "text": plain.choices[0].message.content,
        "finish": plain.choices[0].finish_reason,
        "usage": plain.usage.model_dump(),
        "request_id": plain._request_id,
        "headers": {name: value for name, value in raw.headers.items() if name[:2] == "x-"},
        "streamed": await _streamed(create(**ask)),
        "with_usage": await _streamed(create(**ask_usage)),
        "mapped": (await done(create(model="fast", messages=MESSAGES))).model,
        "alias": (await done(create(model="house-model", messages=MESSAGES))).model,
    }


async def _streamed(stream: Any) -> Facts:
    chunks = [chunk async for chunk in each(await done(stream))]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": choices[-1].finish_reason,
        "usage": usages[-1].model_dump() if usages else None,
    }


async def tools(client: Any) -> Facts:
    create = client.chat.completions.create
    wanted: Any = {"model": "gpt-4o", "messages": MESSAGES, "tools": [TOOL]}
    plain = await done(create(**wanted, tool_choice="required"))
    call = plain.choices[0].message.tool_calls[0]
    arguments = ""
    async for chunk in each(await done(create(**wanted, tool_choice="required", stream=True))):
        for choice in chunk.choices:
            for part in choice.delta.tool_calls or ():
                arguments += part.function.arguments or ""
    return {
        "name": call.function.name,
        "arguments": json.loads(call.function.arguments),
        "streamed": json.loads(arguments),
        "finish": plain.choices[0].finish_reason,
    }


async def numbers(client: Any) -> Facts:
    create = client.embeddings.create
    asked: Any = {"model": "text-embedding-3-small", "input": ["one", "two"]}
    default = await done(create(**asked))
    plain = await done(create(**asked, encoding_format="float"))
    packed = await done(create(**asked, encoding_format="base64"))
    judged = await done(client.moderations.create(input="kill it"))
    vectors = [vector.embedding for vector in default.data]
    away = zip(vectors[1], plain.data[1].embedding, strict=True)
    return {
        "sizes": [len(vector) for vector in vectors],
        "furthest": max(abs(a - b) for a, b in away),
        "packed": isinstance(packed.data[0].embedding, str),
        "tokens": plain.usage.total_tokens,
        "violence": judged.results[0].categories.violence,
    }


async def images(client: Any) -> Facts:
    made = await done(client.images.generate(model="gpt-image-2", prompt="a river"))
    linked = await done(client.images.generate(prompt="a river", model="dall-e-2"))
    picture = base64.b64decode(made.data[0].b64_json)
    edit = {"model": "gpt-image-2", "prompt": "deeper", "image": ("a.png", picture)}
    edited = await done(client.images.edit(**edit))
    return {
        "made": picture[:4].hex(),
        "edited": base64.b64decode(edited.data[0].b64_json)[:4].hex(),
        "linked": linked.data[0].url,
    }


async def audio(client: Any) -> Facts:
    sound = bytes(range(256)) * (FILE_SIZE // 256) + bytes(FILE_SIZE % 256)
    listen = client.audio.transcriptions.create
    heard = await done(listen(model="whisper-1", file=("long.wav", io.BytesIO(sound))))
    mapped = await done(listen(model="ear", file=("long.wav", sound), language="en"))
    text = await done(listen(model="whisper-1", file=("a.wav", b"12"), response_format="text"))
    asked: Any = {"model": "tts-1", "voice": "alloy", "input": "rivers run to the sea"}
    said = await done(client.audio.speech.create(**asked))
    async with entered(client.audio.speech.with_streaming_response.create(**asked)) as answer:
        pieces = [piece async for piece in each(answer.iter_bytes())]
    # The rest of this one never comes: only a gateway that streams has anything to show for it.
    asked["model"] = "tts-stall"
    async with entered(client.audio.speech.with_streaming_response.create(**asked)) as answer:
        first = await anext(each(answer.iter_bytes(1000)))
    return {
        "heard": heard.text,
        "mapped": mapped.text,
        "text": text,
        "said": [said.content[:3].decode(), len(said.content)],
        "same": b"".join(pieces) == said.content,
        "first": len(first),
    }


async def responses(client: Any) -> Facts:
    create = client.responses.create
    ask = {"model": "gpt-4o", "input": "tell me about rivers"}
    plain = await done(create(**ask))
    events = [event async for event in each(await done(create(**ask, stream=True)))]
    async with entered(client.responses.stream(**ask)) as running:
        kinds = [event.type async for event in each(running)]
        final = await done(running.get_final_response())
    return {
        "text": plain.output_text,
        "usage": plain.usage.total_tokens,
        "kinds": [events[0].type, events[-1].type],
        "streamed": events[-1].response.output_text,
        "helped": [kinds[0], kinds[-1], final.output_text],
    }


async def completions(client: Any) -> Facts:
    create = client.completions.create
    plain = await done(create(model="gpt-4o", prompt="rivers", max_tokens=5))
    chunks = await done(create(model="gpt-4o", prompt="rivers", max_tokens=5, stream=True))
    texts = [choice.text async for chunk in each(chunks) for choice in chunk.choices]
    return {
        "text": plain.choices[0].text,
        "finish": plain.choices[0].finish_reason,
        "streamed": "".join(texts),
    }


async def models(client: Any) -> Facts:
    return {
        "list": [model.id async for model in each(client.models.list())],
        "one": (await done(client.models.retrieve("gpt-4o"))).id,
        "mapped": (await done(client.models.retrieve("fast"))).id,
    }


async def files(client: Any) -> Facts:
    kept = await done(client.files.create(file=("a.jsonl", b'{"a": 1}\n'), purpose="batch"))
    facts = {
        "size": kept.bytes,
        "listed": kept.id in [entry.id async for entry in each(client.files.list())],
        "name": (await done(client.files.retrieve(kept.id))).filename,
        "content": (await done(client.files.content(kept.id))).content.decode(),
        "deleted": (await done(client.files.delete(kept.id))).deleted,
    }
    facts["gone"] = await error_of(lambda: client.files.retrieve(kept.id))
    return facts


async def errors(client: Any) -> Facts:
    ask = client.chat.completions.create
    facts = {
        name: await error_of(partial(ask, model=f"gpt-{name}", messages=MESSAGES))
        for name in ("400", "403", "404", "409", "422", "429", "500", "503", "html", "reset")
    }
    stranger = client.with_options(api_key="sk-stranger").chat.completions.create
    bound = client.with_options(api_key="sk-bob").chat.completions.create
    hurried = client.with_options(timeout=0.3).chat.completions.create
    speak = client.audio.speech.create
    return facts | {
        "stranger": await error_of(lambda: stranger(model="gpt-4o", messages=MESSAGES)),
        "bound": await error_of(lambda: bound(model="gpt-4o", messages=MESSAGES)),
        "nobody's": await error_of(lambda: ask(model="nobody-serves-it", messages=MESSAGES)),
        "no messages": await error_of(lambda: ask(model="gpt-4o", messages=[])),
        "dead key": await error_of(lambda: ask(model="dead-key", messages=MESSAGES)),
        "impatient client": await error_of(lambda: hurried(model="gpt-hang", messages=MESSAGES)),
        "impatient gateway": await error_of(lambda: ask(model="hasty", messages=MESSAGES)),
        "cut file": await error_of(lambda: speak(model="tts-cut", voice="alloy", input="hello")),
        "passed through": await error_of(lambda: client.get("/batches/none", cast_to=object)),
    }


async def cut(client: Any) -> Facts:
    texts: list[str] = []

    async def read() -> None:
        stream = client.chat.completions.create(model="gpt-cut", messages=MESSAGES, stream=True)
        async for chunk in each(await done(stream)):
            texts.extend(choice.delta.content or "" for choice in chunk.choices)

    error = await error_of(read)
    stream = client.responses.create(model="gpt-cut", input="rivers", stream=True)
    kinds = [event.type async for event in each(await done(stream))]
    first = {"model": "gpt-error-first", "messages": MESSAGES, "stream": True}
    return {
        "texts": texts,
        "error": error,
        "kinds": kinds,
        "before the first": await error_of(lambda: client.chat.completions.create(**first)),
    }


STEPS = (chat, tools, numbers, images, audio, responses, completions, models, files, errors, cut)


async def run(base: str, mode: str) -> Facts:
    """Every step with one client; the facts by the step's name, and the client's version."""
    client = client_of(base, mode)
    try:
        facts = {step.__name__: await step(client) for step in STEPS}
    finally:
        await done(client.close())
    return {"version": openai.__version__, **facts}


if __name__ == "__main__":
    json.dump(asyncio.run(run(sys.argv[1], sys.argv[2])), sys.stdout)
