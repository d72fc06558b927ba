"""A stock httpx client on DirectTransport against the same client on httpx's own transport.

    python -m benchmarks.direct_transport [httpx|httpx2]

Prints CPU microseconds a call of the client's process, 64 calls at a time, against a canned answer
of a server in a process of its own, in alternating rounds; and the ratio of the medians.
"""

import asyncio
import importlib
import multiprocessing
import multiprocessing.connection
import statistics
import sys
import time
from typing import Any

from asgi_llm_gateway.upstream import DirectTransport

CALLS, AT_A_TIME, ROUNDS = 3000, 64, 5
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 400\r\n\r\n%b"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello " * 50}]}


class Canned(asyncio.Protocol):
    """Answers each request, which comes in one piece or two, as soon as its body is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.buffer.endswith(b"}"):
            self.buffer = b""
            self.transport.write(ANSWER % (b" " * 400))


def serve(tell: multiprocessing.connection.Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
        tell.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def cost(client: Any, url: str) -> float:
    """CPU microseconds of this process for each call."""

    async def caller() -> None:
        for _ in range(CALLS // AT_A_TIME):
            response = await client.post(url, json=BODY)
            assert len(response.content) == 400

    await asyncio.gather(*(client.post(url, json=BODY) for _ in range(AT_A_TIME)))
    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(AT_A_TIME)))
    calls = CALLS // AT_A_TIME * AT_A_TIME
    return (time.process_time() - began) / calls * 1e6


async def compare(library: Any, url: str) -> tuple[float, float]:
    limits = library.Limits(max_connections=AT_A_TIME, max_keepalive_connections=AT_A_TIME)
    ours, theirs = [], []
    async with (
        library.AsyncClient(transport=DirectTransport()) as direct,
        library.AsyncClient(limits=limits) as stock,
    ):
        for _ in range(ROUNDS):
            ours.append(await cost(direct, url))
            theirs.append(await cost(stock, url))
    return statistics.median(ours), statistics.median(theirs)


def main() -> None:
    library = importlib.import_module(sys.argv[1] if len(sys.argv) > 1 else "httpx2")
    heard, tell = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(tell,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{heard.recv()}/v1/chat/completions"
    ours, theirs = asyncio.run(compare(library, url))
    server.terminate()
    print(
        f"{library.__name__} {library.__version__}: DirectTransport {ours:.0f} us a call, "
        f"its own {theirs:.0f} us, ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main()
