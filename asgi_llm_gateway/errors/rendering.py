"""How a caller is told: in its own dialect, as an answer or as an event of a stream."""

from __future__ import annotations

import json
import math
from typing import Any

from .tree import AuthenticationFailed, GatewayError, Headers, MethodNotAllowed

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Names from Anthropic's error reference; any other is api_error (>= 500) or
invalid_request_error."""

_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""google.rpc.Code names by HTTP status, as in Google's API design guide."""


def payload(error: GatewayError, dialect: str, request_id: str | None = None) -> dict[str, Any]:
    """The error as the JSON object callers of this dialect expect.

    The request id stands in the text too where the dialect has no member for it: the text is what
    people copy into a report.
    """
    if dialect == "anthropic":
        fallback = "api_error" if error.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPES.get(error.status, fallback)
        out: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": error.message}}
        if request_id:
            out["request_id"] = request_id
        return out
    message = f"{error.message} (request id: {request_id})" if request_id else error.message
    if dialect == "gemini":
        fallback = "INTERNAL" if error.status >= 500 else "FAILED_PRECONDITION"
        return {
            "error": {
                "code": error.status,
                "message": message,
                "status": _GOOGLE_STATUSES.get(error.status, fallback),
            }
        }
    return {
        "error": {
            "message": message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def render(
    error: GatewayError, dialect: str, request_id: str | None = None
) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the answer that tells a caller of `dialect` about `error`."""
    body = json.dumps(payload(error, dialect, request_id)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    if isinstance(error, AuthenticationFailed):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode("ascii")))
    return error.status, headers, body


def stream_event(
    error: GatewayError, dialect: str, request_id: str | None = None, *, sequence: int = 0
) -> bytes:
    """The error as an event of a stream that has already begun; no terminator follows it.

    `sequence` is the number of the event where a dialect numbers them (OpenAI's Responses).
    """
    if dialect == "openai_responses":
        told = payload(error, dialect, request_id)["error"]
        data: dict[str, Any] = {
            "type": "error",
            "code": told["code"],
            "message": told["message"],
            "param": told["param"],
            "sequence_number": sequence,
        }
        return b"event: error\ndata: " + json.dumps(data).encode() + b"\n\n"
    data = payload(error, dialect, request_id)
    name = b"event: error\n" if dialect == "anthropic" else b""
    return name + b"data: " + json.dumps(data).encode() + b"\n\n"
