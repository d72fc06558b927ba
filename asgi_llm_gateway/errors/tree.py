"""The error tree, one class each; the package's docstring draws it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

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


class KeysBusy(RateLimited):
    """Every key that could serve the call is at one of its limits; `retry_after` is when one is
    free again."""

    code = "keys_busy"


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


class StateUnavailable(GatewayError):
    """The shared store does not answer in time, or at all."""

    status = 503
    type = "service_unavailable_error"
    code = "state_unavailable"


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


class KeyRevoked(UpstreamError):
    """A key that can never be used again: its token host says so. Its callers are told 503."""

    status = 503
    code = "key_revoked"


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
