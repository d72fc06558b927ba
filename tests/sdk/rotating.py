"""What the official openai client does with a RotatingKeyAuth and no gateway, as JSON.

    python rotating.py BASE_URL sync|async own|httpx|direct [FOLDER]

`own` is the client the SDK makes for itself, `httpx` the older library under a 3.x SDK, `direct`
the SDK's own library on a DirectTransport. Each version of the SDK (1.x or 3.x) runs it in an
environment of its own, with this package on the path; what that needs and the environment lacks is
looked for in FOLDER, after everything else. The keys, models and faults are those of
`test_rotating_openai_client.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Iterable
from typing import Any

import openai

Facts = dict[str, Any]

GOOD, SPARE, DEAD, BUSY = "sk-good", "sk-spare", "sk-dead", "sk-busy"
MESSAGES: Any = [{"role": "user", "content": "tell me about rivers"}]


def client_of(base: str, mode: str, kind: str, auth: Any, **options: Any) -> Any:
    sync = mode == "sync"
    if kind == "httpx":
        import httpx

        http: Any = (httpx.Client if sync else httpx.AsyncClient)(auth=auth)
    elif kind == "direct":
        from asgi_llm_gateway.upstream import DirectTransport

        http = openai.DefaultAsyncHttpxClient(auth=auth, transport=DirectTransport())
    else:
        own: Any = openai.DefaultHttpxClient if sync else openai.DefaultAsyncHttpxClient
        http = own(auth=auth)
    made: Any = openai.OpenAI if sync else openai.AsyncOpenAI
    options.setdefault("max_retries", 0)
    return made(api_key="sk-unused", base_url=f"{base}/v1", http_client=http, **options)


async def done(value: Any) -> Any:
    """The value of a call, of either client."""
    return await value if inspect.isawaitable(value) else value


class Script:
    """The calls, on clients of one version, mode and kind."""

    def __init__(self, base: str, mode: str, kind: str) -> None:
        self.base, self.mode, self.kind = base, mode, kind

    def client(self, keys: Iterable[str], **options: Any) -> tuple[Any, Any]:
        from asgi_llm_gateway.keys.httpx_auth import RotatingKeyAuth
        from asgi_llm_gateway.keys.pool import MemoryKeyPool

        auth = RotatingKeyAuth(MemoryKeyPool(keys, choose="round_robin"), wait=0)
        return client_of(self.base, self.mode, self.kind, auth, **options), auth.pool

    async def ask(self, client: Any, model: str = "gpt-4o", **asked: Any) -> Any:
        return await done(client.chat.completions.create(model=model, messages=MESSAGES, **asked))

    async def streamed(self, client: Any, pool: Any) -> Facts:
        stream = await self.ask(client, stream=True)
        during = sum(key.in_flight for key in pool.keys)
        text = ""
        if self.mode == "sync":
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        else:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        return {"text": text, "during": during}

    async def failure(self, client: Any, model: str = "gpt-4o") -> Facts:
        try:
            await self.ask(client, model)
        except Exception as exc:
            cause = type(exc.__cause__).__name__ if exc.__cause__ is not None else None
            return {"class": type(exc).__name__, "cause": cause, "text": str(exc)}
        raise AssertionError("no error")

    async def run(self) -> Facts:
        client, pool = self.client([DEAD, BUSY, GOOD, SPARE])
        answers = []
        for _ in range(6):
            answer = await self.ask(client)
            answers.append(answer.choices[0].message.content)
        facts: Facts = {"version": openai.__version__, "answers": answers}
        facts["left"] = [key.fingerprint for key in pool.keys]
        facts["streamed"] = await self.streamed(client, pool)
        facts["in flight"] = sum(key.in_flight for key in pool.keys)
        await done(client.close())

        client, pool = self.client([GOOD, SPARE], max_retries=2)
        facts["retried"] = (await self.ask(client, "gpt-once")).choices[0].message.content
        await done(client.close())

        client, pool = self.client([BUSY])
        facts["busy"] = await self.failure(client)
        await done(client.close())

        client, pool = self.client([DEAD])
        facts["dead"] = await self.failure(client)
        facts["none left"] = await self.failure(client)
        await done(client.close())
        return facts


if __name__ == "__main__":
    sys.path.extend(sys.argv[4:])
    print(json.dumps(asyncio.run(Script(*sys.argv[1:4]).run())))
