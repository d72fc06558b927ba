"""Error answers as providers give them, and what each should be judged to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asgi_llm_gateway.errors import (
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    GatewayError,
    InvalidRequest,
    KeyRevoked,
    KeysBusy,
    PoolTimeout,
    ProviderRefused,
    UpstreamError,
    UpstreamTimeout,
)

HEADERS = [(b"content-type", b"application/json")]


def refused(status: int, document: Any, *, in_200: bool = False) -> ProviderRefused:
    """A refusal with this body; bytes are taken as they are."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = [] if in_200 else list(HEADERS)
    return ProviderRefused("refused", status=502 if in_200 else status, body=body, headers=headers)


def openai(
    status: int, message: str = "no", *, code: Any = None, type: str | None = None
) -> ProviderRefused:
    """OpenAI's shape, and that of most who speak its dialect."""
    error = {"message": message, "type": type, "param": None, "code": code}
    return refused(status, {"error": error})


def anthropic(status: int, type: str, message: str = "no") -> ProviderRefused:
    """Anthropic's shape."""
    return refused(status, {"type": "error", "error": {"type": type, "message": message}})


def gemini(status: int, name: str, message: str, reason: str | None = None) -> ProviderRefused:
    """Google's shape, in a list as its OpenAI-compatible paths have it."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
    error = {"code": status, "message": message, "status": name}
    return refused(status, [{"error": {**error, "details": details if reason else []}}])


def late(phase: str) -> UpstreamTimeout:
    return UpstreamTimeout("too late", phase=phase)


def _of_providers() -> list[tuple[str, GatewayError, str]]:
    """The cases of errors_of_providers.tsv."""
    text = Path(__file__).with_name("errors_of_providers.tsv").read_text("utf-8")
    cases: list[tuple[str, GatewayError, str]] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            verdict, status, what, body = line.split("\t")
            failure = refused(int(status), body.encode(), in_200=status == "200")
            cases.append((what, failure, verdict))
    return cases


DEFAULT: list[tuple[str, GatewayError, str]] = [
    # what, failure, verdict
    *_of_providers(),
    ("no connection", ConnectFailed("x"), "unreachable"),
    ("no connection in time", late("connect"), "unreachable"),
    ("a reset", ConnectionLost("x"), "connection_lost"),
    ("no first byte", late("first_byte"), "too_slow"),
    ("no first token", late("first_token"), "too_slow"),
    ("a stall", late("idle"), "too_slow"),
    ("too long in all", late("total"), "too_slow"),
    ("no connection of ours free", PoolTimeout("x"), "busy"),
    ("no key of ours free", KeysBusy("x", retry_after=1), "busy"),
    ("HTML with 200", BadAnswer("x"), "unreadable"),
    ("a revoked refresh token", KeyRevoked("x"), "dead_key"),
    ("the token host down", UpstreamError("x"), "token_host"),
    ("a guard's refusal", InvalidRequest("x"), "own"),
]

ONE_API: list[tuple[str, GatewayError, str, bool]] = [
    # what, failure, verdict, tried elsewhere
    ("401", refused(401, b""), "channel_off", True),
    ("insufficient_quota", openai(429, type="insufficient_quota"), "channel_off", True),
    ("authentication_error", anthropic(403, "authentication_error"), "channel_off", True),
    ("permission_error", anthropic(403, "permission_error"), "channel_off", True),
    ("forbidden", openai(403, type="forbidden"), "channel_off", True),
    ("invalid_api_key", openai(403, code="invalid_api_key"), "channel_off", True),
    ("account_deactivated", openai(403, code="account_deactivated"), "channel_off", True),
    ("a phrase", openai(403, "api key expired, renew it"), "channel_off", True),
    ("the word credit anywhere", openai(402, "Out of CREDIT"), "channel_off", True),
    ("the word balance anywhere", openai(402, "Insufficient Balance"), "channel_off", True),
    ("overdrawn", openai(429, "账户已欠费"), "channel_off", True),
    ("400 by type", openai(400, type="insufficient_quota"), "channel_off", False),
    ("400 by code", openai(400, code="invalid_api_key"), "channel_off", False),
    ("400 by words", openai(400, "API key not valid. Please"), "channel_off", False),
    ("a revoked key", KeyRevoked("x"), "channel_off", True),
    ("400", openai(400, "Unknown parameter"), "caller", False),
    ("404", openai(404), "failed", True),
    ("429", openai(429), "failed", True),
    ("500", openai(500), "failed", True),
    ("no connection", ConnectFailed("x"), "failed", True),
    ("HTML", BadAnswer("x"), "failed", True),
    ("busy", PoolTimeout("x"), "busy", True),
    ("keys busy", KeysBusy("x"), "busy", True),
    ("own", InvalidRequest("x"), "own", False),
]

NEW_API: list[tuple[str, GatewayError, str, bool]] = [
    ("401", refused(401, b""), "key_off", True),
    ("a phrase", openai(403, "Permission denied: x"), "key_off", True),
    ("quota", openai(429, "You exceeded your current quota"), "key_off", True),
    ("a phrase with 400", openai(400, "Your credit balance is too low"), "key_off", False),
    ("a revoked key", KeyRevoked("x"), "key_off", True),
    ("400", openai(400), "caller", False),
    ("408", openai(408), "caller", False),
    ("504", openai(504), "caller", False),
    ("524", openai(524), "caller", False),
    ("404", openai(404), "failed", True),
    ("429", openai(429), "failed", True),
    ("500", openai(500), "failed", True),
    ("503", openai(503), "failed", True),
    ("523", openai(523), "failed", True),
    ("525", openai(525), "failed", True),
    ("no connection", ConnectFailed("x"), "failed", True),
    ("silence", late("first_byte"), "failed", True),
    ("HTML", BadAnswer("x"), "caller", False),
    ("busy", PoolTimeout("x"), "busy", True),
    ("own", InvalidRequest("x"), "own", False),
]
