"""Many keys in a stock OpenAI client, with no gateway: they change by themselves.

python examples/rotating_keys.py

It runs as it is: its provider is the simulator on a free port, for which one of the keys is dead
and one is over its limit. The openai client may be 3.x or 1.x.
"""

import asyncio
import socket
import threading

import openai
import uvicorn

from asgi_llm_gateway import DirectTransport, RotatingKeyAuth
from asgi_llm_gateway.testing import Simulator

KEYS = ["sk-dead", "sk-busy", "sk-good", "sk-spare"]


def ask_with_the_sync_client(base_url: str) -> None:
    auth = RotatingKeyAuth(KEYS, retry=2)  # the two bad keys may come first
    http = openai.DefaultHttpxClient(auth=auth)
    # The client insists on a key; what goes out is always one of the pool's.
    with openai.OpenAI(api_key="unused", base_url=base_url, http_client=http) as client:
        for _ in range(40):
            client.embeddings.create(model="text-embedding-3-small", input="rivers")
    print("sync:", len(KEYS) - len(asyncio.run(auth.pool.all())), "dead key was dropped")


async def ask_with_the_async_client(base_url: str) -> None:
    auth = RotatingKeyAuth(KEYS, retry=2)
    http = openai.DefaultAsyncHttpxClient(auth=auth, transport=DirectTransport())  # for less CPU
    async with openai.AsyncOpenAI(api_key="unused", base_url=base_url, http_client=http) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", stream=True, messages=[{"role": "user", "content": "echo: it streams"}]
        )
        print("async:", "".join([chunk.choices[0].delta.content or "" async for chunk in stream]))


def main() -> None:
    simulator = Simulator(faults={"sk-dead": "401", "sk-busy": "429:1"})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(simulator, log_level="error"))
    serving = threading.Thread(target=server.run, args=([listener],))
    serving.start()
    try:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        ask_with_the_sync_client(base_url)
        asyncio.run(ask_with_the_async_client(base_url))
        print("asked with:", sorted({seen.key for seen in simulator.calls if seen.status == 200}))
    finally:
        server.should_exit = True
        serving.join()


if __name__ == "__main__":
    main()
