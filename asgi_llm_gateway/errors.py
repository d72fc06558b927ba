"""Everything that can go wrong with a call, and how a caller is told.

    GatewayError                          500
    ├── InvalidRequest                    400   the caller's body or path cannot be used
    │   ├── BodyTooLarge                  413
    │   ├── UnsupportedMedia              415
    │   └── RequestTimeout                408   the caller sent its body too slowly
    ├── AuthenticationFailed              401   no access token, or not a good one
    ├── PermissionDenied                  403   a good access token, but not for this
    ├── NotFound                          404
    │   └── ModelNotFound                 404   no channel serves this model to this caller
    ├── MethodNotAllowed                  405
    ├── RateLimited                       429
    ├── NotSupported                      501   a known route that no channel here can serve
    ├── Unavailable                       503   served here, but nothing healthy is left
    ├── ConfigurationError                500   the operator's settings cannot work
    └── UpstreamError                     502   the provider failed
        ├── ConnectFailed                 502   no connection: DNS, refused, TLS
        ├── ConnectionLost                502   the connection died before the answer was whole
        ├── UpstreamTimeout               504   a time limit of the channel ran out
        ├── PoolTimeout                   503   no connection became free in time
        ├── BadAnswer                     502   an answer that is not what the provider promises
        └── ProviderRefused               as the provider said (its body is kept)

    ClientLeft                            the caller is gone: nobody is told

`render` turns an error into an HTTP answer in the caller's dialect and `stream_event` into that
dialect's error event, for a stream whose first event has already gone out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, ClassVar

Headers = list[tuple[bytes, bytes]]


class GatewayError(Exception):
    """Base of every error a caller can be told about."""

    status: int = 500
    type: ClassVar[str] = "gateway_error"
    code: str | None = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds after which a retry makes sense; becomes the Retry-After header."""
        if code is not None:
            self.code = code


class InvalidRequest(GatewayError):
    """The caller's request cannot be used as it is."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class BodyTooLarge(InvalidRequest):
    """The body is over the limit, as sent or once inflated."""

    status = 413
    code = "request_too_large"


class UnsupportedMedia(InvalidRequest):
    """A content type or content encoding this endpoint does not read."""

    status = 415
    code = "unsupported_media_type"


class RequestTimeout(InvalidRequest):
    """The caller's body did not arrive in time."""

    status = 408
    code = "request_timeout"


class AuthenticationFailed(GatewayError):
    """No access token, or not a good one; never says which part was wrong."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(GatewayError):
    """A good access token that may not do this."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class NotFound(GatewayError):
    """No such route or object."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No channel serves this model to this caller's group."""

    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    """The route exists, with another method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: Iterable[str]) -> None:
        super().__init__(message)
        self.allow = ", ".join(allow)


class RateLimited(GatewayError):
    """A limit of the caller is used up for now."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class NotSupported(GatewayError):
    """A route of the API that no configured channel can serve."""

    status = 501
    type = "not_supported_error"
    code = "not_implemented"


class Unavailable(GatewayError):
    """The model is served here, but no candidate is healthy at the moment."""

    status = 503
    type = "service_unavailable_error"
    code = "no_healthy_channel"


class ConfigurationError(GatewayError):
    """Settings or composition that cannot work; the message names the line to change."""

    type = "configuration_error"
    code = "configuration_error"


class UpstreamError(GatewayError):
    """A provider failed; the message never carries its key or its address."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"


class ConnectFailed(UpstreamError):
    """No connection to the provider: name look-up, refusal or TLS."""

    code = "upstream_connect_failed"


class ConnectionLost(UpstreamError):
    """The provider's connection died before its answer was whole."""

    code = "upstream_connection_lost"


class UpstreamTimeout(UpstreamError):
    """The provider was silent for longer than one of the channel's time limits.

    `phase` is one of connect, first_byte, first_token, idle, total.
    """

    status = 504
    code = "upstream_timeout"

    def __init__(self, message: str, *, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class PoolTimeout(UpstreamError):
    """Every connection allowed to this origin stayed busy for as long as a call may wait."""

    status = 503
    code = "upstream_busy"


class BadAnswer(UpstreamError):
    """An answer that is not what this endpoint of the provider promises."""

    code = "bad_upstream_answer"


class ProviderRefused(UpstreamError):
    """The provider answered with an error status of its own.

    `status` is the provider's; `body` and `headers` are its answer, so that a same-dialect caller
    can be given it word for word.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body: bytes = b"",
        headers: Headers | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.status = status
        self.body = body
        self.headers = headers or []


class ClientLeft(Exception):
    """The caller went away; whatever was under way is given up, and nobody is answered."""


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
    """The error as the JSON object callers of this dialect expect."""
    if dialect == "anthropic":
        fallback = "api_error" if error.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPES.get(error.status, fallback)
        out: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": error.message}}
        if request_id:
            out["request_id"] = request_id
        return out
    if dialect == "gemini":
        fallback = "INTERNAL" if error.status >= 500 else "FAILED_PRECONDITION"
        return {
            "error": {
                "code": error.status,
                "message": error.message,
                "status": _GOOGLE_STATUSES.get(error.status, fallback),
            }
        }
    return {
        "error": {
            "message": error.message,
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


def stream_event(error: GatewayError, dialect: str, request_id: str | None = None) -> bytes:
    """The error as an event of a stream that has already begun; no terminator follows it."""
    if dialect == "openai_responses":
        data: dict[str, Any] = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
        }
        return b"event: error\ndata: " + json.dumps(data).encode() + b"\n\n"
    data = payload(error, dialect, request_id)
    name = b"event: error\n" if dialect == "anthropic" else b""
    return name + b"data: " + json.dumps(data).encode() + b"\n\n"
