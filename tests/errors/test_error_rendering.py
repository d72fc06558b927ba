"""What callers of each dialect are told, as an answer and in the middle of a stream."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from asgi_llm_gateway import errors
from asgi_llm_gateway.errors import (
    AuthenticationFailed,
    BadAnswer,
    ClientLeft,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    ProviderRefused,
    RateLimited,
    Unavailable,
    UpstreamTimeout,
    payload,
    render,
    stream_event,
)
from asgi_llm_gateway.wire.sse import SSEReader

OPENAI = ("openai_chat", "openai_completions", "openai_embeddings", "openai_responses")


def make(kind: type[GatewayError], message: str = "what to do") -> GatewayError:
    """An instance of any class of the tree."""
    if kind is MethodNotAllowed:
        return MethodNotAllowed(message, allow=("GET", "HEAD"))
    if kind is UpstreamTimeout:
        return UpstreamTimeout(message, phase="idle")
    if kind is ProviderRefused:
        return ProviderRefused(message, status=418)
    return kind(message)


def tree(kind: type[BaseException]) -> dict[str, type[GatewayError]]:
    """Every class below (and with) this one, by name."""
    out = {kind.__name__: kind}
    for sub in kind.__subclasses__():
        if sub.__module__ == f"{errors.__name__}.tree":
            out |= tree(sub)
    return out  # type: ignore[return-value]


ALL = tree(GatewayError)


def test_the_tree_drawn_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, tuple[str | None, str]] = {}
    above: list[str] = []
    assert errors.__doc__
    for line in errors.__doc__.splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+) {2,}(.*)", line)
        if found is None or found[2] not in ALL:
            continue
        depth = len(found[1]) // 4
        above[depth:] = [found[2]]
        drawn[found[2]] = (above[depth - 1] if depth else None, found[3].split()[0])
    assert drawn.keys() == ALL.keys()
    for name, (parent, status) in drawn.items():
        base = ALL[name].__base__
        assert parent == (None if name == "GatewayError" else base and base.__name__)
        assert status in (str(ALL[name].status), "as"), name


def test_whoever_left_is_told_nothing_and_is_no_gateway_error() -> None:
    assert not issubclass(ClientLeft, GatewayError)


@pytest.mark.parametrize("kind", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dialect", [*OPENAI, "anthropic", "gemini", "nobody's"])
def test_every_error_renders_in_every_dialect(kind: type[GatewayError], dialect: str) -> None:
    error = make(kind)
    status, headers, body = render(error, dialect, "req-1")
    sent = dict(headers)
    assert status == error.status
    assert sent[b"content-type"] == b"application/json"
    assert sent[b"content-length"] == b"%d" % len(body)
    assert len(sent) == len(headers)
    assert json.loads(body) == payload(error, dialect, "req-1")


def test_openai_callers_get_message_type_param_and_code() -> None:
    error = InvalidRequest("messages must be a list", param="messages", code="wrong_type")
    assert payload(error, "openai_chat", "r") == {
        "error": {
            "message": "messages must be a list (request id: r)",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "wrong_type",
        }
    }
    assert payload(ModelNotFound("m"), "openai_chat")["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("m"), "invalid_request_error"),
        (AuthenticationFailed("m"), "authentication_error"),
        (ModelNotFound("m"), "not_found_error"),
        (RateLimited("m"), "rate_limit_error"),
        (Unavailable("m"), "overloaded_error"),
        (UpstreamTimeout("m", phase="idle"), "timeout_error"),
        (BadAnswer("m"), "api_error"),
        (ProviderRefused("m", status=422), "invalid_request_error"),
    ],
)
def test_anthropic_callers_get_their_own_types_and_the_request_id(
    error: GatewayError, kind: str
) -> None:
    assert payload(error, "anthropic", "req-1") == {
        "type": "error",
        "error": {"type": kind, "message": "m"},
        "request_id": "req-1",
    }
    assert "request_id" not in payload(error, "anthropic")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("m"), "INVALID_ARGUMENT"),
        (AuthenticationFailed("m"), "UNAUTHENTICATED"),
        (RateLimited("m"), "RESOURCE_EXHAUSTED"),
        (Unavailable("m"), "UNAVAILABLE"),
        (BadAnswer("m"), "INTERNAL"),
        (ProviderRefused("m", status=422), "FAILED_PRECONDITION"),
    ],
)
def test_gemini_callers_get_code_and_status_name(error: GatewayError, status: str) -> None:
    assert payload(error, "gemini") == {
        "error": {"code": error.status, "message": "m", "status": status}
    }


@pytest.mark.parametrize(
    ("seconds", "header"), [(0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.1, b"2"), (59, b"59")]
)
def test_retry_after_is_whole_seconds_rounded_up_and_never_zero(
    seconds: float, header: bytes
) -> None:
    _, headers, _ = render(RateLimited("m", retry_after=seconds), "openai_chat")
    assert dict(headers)[b"retry-after"] == header


def test_the_answer_carries_what_http_asks_for() -> None:
    assert b"retry-after" not in dict(render(RateLimited("m"), "gemini")[1])
    _, headers, _ = render(AuthenticationFailed("m"), "anthropic")
    assert dict(headers)[b"www-authenticate"] == b"Bearer"
    _, headers, _ = render(MethodNotAllowed("m", allow=("GET", "HEAD")), "openai_chat")
    assert dict(headers)[b"allow"] == b"GET, HEAD"


HOSTILE = ['"}\n\ndata: [DONE]\n\n', "\r\n\r\nevent: x", "\ud800", "\x00", "é" * 1000]


@pytest.mark.parametrize("message", HOSTILE)
@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "anthropic", "gemini"])
def test_a_stream_event_is_one_event_whatever_the_message_says(dialect: str, message: str) -> None:
    raw = stream_event(InvalidRequest(message, param=message), dialect)
    (event,) = SSEReader().feed(raw)
    document: Any = json.loads(event.data)
    told = document if dialect == "openai_responses" else document["error"]
    assert told["message"] == message
    named = dialect in ("anthropic", "openai_responses")
    assert event.event == (b"error" if named else b"")
    assert (document.get("type") == "error") == named
    assert render(InvalidRequest(message), dialect)[2].isascii()


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "gemini"])
def test_the_text_names_the_request_where_no_member_can(dialect: str) -> None:
    raw = stream_event(InvalidRequest("no"), dialect, "r-1")
    assert b"no (request id: r-1)" in raw
    assert b"(request id: r-1)" not in stream_event(InvalidRequest("no"), "anthropic", "r-1")


def test_an_errors_own_code_wins_over_its_class_and_leaves_the_class_alone() -> None:
    assert AuthenticationFailed("m", code="caller_required").code == "caller_required"
    assert AuthenticationFailed("m").code == "invalid_api_key"
