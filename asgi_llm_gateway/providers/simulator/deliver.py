"""Sending an answer: paced, watched for a caller that leaves, and ended as a fault wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Message, Receive, Send

from ...errors import ClientLeft
from .answer import Answer, Ending


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the simulated model is; seconds, and tokens a second (None: at once)."""

    latency: float
    first_token: float
    tokens_per_second: float | None
    sleep: Callable[[float], Awaitable[None]]

    async def wait(self, seconds: float) -> None:
        """Sleep, or just let others run."""
        await self.sleep(max(0.0, seconds))

    def seconds(self, tokens: int) -> float:
        """How long so many tokens take."""
        return tokens / self.tokens_per_second if self.tokens_per_second else 0.0


class Progress(Protocol):
    """Where the sender writes down how far it came."""

    status: int | None
    events: int
    dropped: bool


async def deliver(
    answer: Answer, pace: Pace, progress: Progress, receive: Receive, send: Send
) -> None:
    """Send the answer until its end; raises ClientLeft as soon as the caller is gone."""
    sending = asyncio.create_task(_send(answer, pace, progress, send))
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finished = sending.done()
    finally:
        sending.cancel()
        leaving.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)
    if finished:
        sending.result()
        return
    leaving.result()
    raise ClientLeft


async def _send(answer: Answer, pace: Pace, progress: Progress, send: Send) -> None:
    plain = not answer.streamed
    await pace.wait(pace.latency + (answer.pause if plain else 0.0))
    if answer.head:
        await _emit(send, _head(answer))
        progress.status = answer.status
        if not plain:
            await pace.wait(pace.first_token + answer.pause)
    last = len(answer.pieces) - 1
    for at, piece in enumerate(answer.pieces):
        # Even an unpaced stream lets the watcher run, or nobody would see the caller leave.
        await pace.wait(pace.seconds(piece.tokens))
        more = at < last or not plain or answer.ending is not Ending.WHOLE
        message = {"type": "http.response.body", "body": piece.data, "more_body": more}
        await _emit(send, message)
        progress.events += 1
    if answer.ending is Ending.SILENT:
        await asyncio.get_running_loop().create_future()
    if answer.ending is Ending.DROPPED:
        await _drop(answer, progress, send)
    if not plain:
        await _emit(send, {"type": "http.response.body", "body": b"", "more_body": False})


def _head(answer: Answer) -> Message:
    headers = list(answer.headers)
    if not answer.streamed:
        size = sum(len(piece.data) for piece in answer.pieces)
        # A body that breaks off was announced whole.
        if answer.ending is not Ending.WHOLE:
            size = 2 * size + 1
        headers.append((b"content-length", b"%d" % size))
    return {"type": "http.response.start", "status": answer.status, "headers": headers}


async def _drop(answer: Answer, progress: Progress, send: Send) -> None:
    """Let the connection die.

    ASGI has no word for this. uvicorn's `send` is bound to an object that has the transport: it
    is aborted before the head and closed, what was written sent first, after it. Anywhere else an
    exception leaves the app, which a server answers with a close or, before the head, a 500.
    """
    progress.dropped = True
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    end = getattr(transport, "close" if answer.head else "abort", None)
    if end is not None:
        end()
        await asyncio.get_running_loop().create_future()
    raise ConnectionResetError("the simulator dropped this connection")


async def _emit(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as exc:
        raise ClientLeft from exc


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
