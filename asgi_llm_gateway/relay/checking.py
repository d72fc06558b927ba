"""Test calls: the shortest chat call a channel can be asked, with a key of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from ..channels.live import LiveChannel
from ..dialects.openai_chat import OPENAI_CHAT
from ..errors import Headers, NotSupported, Unavailable
from ..exchange.caller import matches
from ..upstream.contract import UpstreamRequest
from .headers import JSON_BODY
from .opened import open_answer

log = logging.getLogger("asgi_llm_gateway.relay")

_PROMPT: Final = "Say hi."
_TOKENS: Final = 16
"""The least that every provider takes as a limit."""


async def test_call(channel: LiveChannel, clock: Callable[[], float]) -> float:
    """Ask a channel something small; the seconds until the whole answer was there.

    Raises what makes an attempt fail, NotSupported where no model to ask for is known (give the
    channel a `test_model`), Unavailable where no key is free.
    """
    model = test_model(channel)
    key = await channel.pool.take(None, (), wait=channel.patience)
    if key is None:
        raise Unavailable("the channel has no key that can be used")
    response = None
    outcome = "failed"
    try:
        secret = key.secret
        if channel.credentials is not None:
            secret = await channel.credentials.secret(key)
        began = clock()
        response = await channel.upstream.send(_request(channel, secret, model))
        await open_answer(response, OPENAI_CHAT, streamed=False, hide_usage=False, first_token=None)
        outcome = "ok"
        return clock() - began
    finally:
        try:
            channel.pool.report(key, outcome)
        finally:
            if response is not None:
                await response.aclose()


def test_model(channel: LiveChannel) -> str:
    """The model a test asks for: the one that is set, else the first that is named or known."""
    model = channel.config.test_model or next(iter(channel.plain_models), None)
    if model is None:
        known = (m for m in channel.provider.models if matches(m, channel.globs))
        model = next(known, None)
    if model is None or "chat" not in channel.provider.endpoints:
        raise NotSupported(f"channel {channel.name!r} has no model to test; give it a test_model")
    return model


def warn_of_untestable(channels: Iterable[LiveChannel]) -> None:
    """Log which channels scheduled tests will never bring back."""
    for channel in channels:
        if channel.config.enabled:
            try:
                test_model(channel)
            except NotSupported as problem:
                log.warning("scheduled tests pass by: %s", problem.message)


def _request(channel: LiveChannel, secret: str, model: str) -> UpstreamRequest:
    name = channel.upstream_model(model)
    origin, target = channel.target("/chat/completions", name)
    document = {
        "model": name,
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": _TOKENS,
    }
    headers: Headers = [*channel.sign(secret), *JSON_BODY]
    limits = channel.timeouts_for(model)
    body = msgspec.json.encode(document)
    return UpstreamRequest("POST", origin, target, headers, body, timeouts=limits)
