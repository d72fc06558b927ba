"""What an ASGI app may send and do to its scope, checked message by message.

Source: the ASGI specification, "HTTP & WebSocket ASGI Message Format" 2.5 and "Lifespan Protocol"
2.0; what a header may hold is RFC 9110 section 5.
"""

from __future__ import annotations

import copy
import re
from typing import Any

OURS = frozenset({"asgi_llm_gateway"})
STARLETTE = OURS | {
    "app",
    "router",
    "path_params",
    "endpoint",
    "route",
    "root_path",
    "app_root_path",
}
"""What starlette writes into the scope it was given (routing.py updates it in place)."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_BODYLESS = (204, 304)
_EXTENSIONS = {
    "http.response.debug": "http.response.debug",
    "http.response.early_hint": "http.response.early_hint",
    "http.response.pathsend": "http.response.pathsend",
    "http.response.push": "http.response.push",
    "http.response.trailers": "http.response.trailers",
    "http.response.zerocopysend": "http.response.zerocopysend",
}
_START = {"type", "status", "headers", "trailers"}
_BODY = {"type", "body", "more_body"}


class ResponseRules:
    """Looks at each message an app sends for one request; `broken` lists what was wrong."""

    def __init__(self, method: str, extensions: dict[str, Any]) -> None:
        self.broken: list[str] = []
        self.started = self.ended = False
        self._method = method
        self._extensions = extensions
        self._announced: int | None = None
        self._sent = 0
        self._status = 0

    def look(self, message: Any) -> None:
        """One message of the app's."""
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            self.broken.append(f"not an ASGI message: {message!r}")
            return
        kind = message["type"]
        if self.ended:
            self.broken.append(f"{kind} after the last message")
        elif kind == "http.response.start":
            self._start(message)
        elif kind == "http.response.body":
            self._body(message)
        elif kind not in _EXTENSIONS or _EXTENSIONS[kind] not in self._extensions:
            self.broken.append(f"{kind} is not offered by this server")

    def finish(self, *, left: bool, raised: bool) -> bool:
        """The app is done; returns whether its answer was cut before its last message."""
        if not self.started and not left and not raised:
            self.broken.append("the app returned without an answer")
        return self.started and not self.ended and not left

    def _start(self, message: dict[str, Any]) -> None:
        if self.started:
            self.broken.append("a second http.response.start")
            return
        self.started = True
        if foreign := _foreign(message, _START):
            self.broken.append(f"unknown members in http.response.start: {foreign}")
        status = message.get("status")
        if type(status) is not int or not 100 <= status <= 599:
            self.broken.append(f"status {status!r} is no HTTP status")
        else:
            self._status = status
        for pair in message.get("headers", ()):
            self._header(pair)

    def _header(self, pair: Any) -> None:
        try:
            name, value = pair
        except (TypeError, ValueError):
            self.broken.append(f"a header is two byte strings, not {pair!r}")
            return
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            self.broken.append(f"a header is two byte strings, not {pair!r}")
            return
        if not _TOKEN.match(name):
            self.broken.append(f"header name {name!r} is not a lower-case token")
        if any(byte in value for byte in b"\r\n\0"):
            self.broken.append(f"header {name!r} holds CR, LF or NUL")
        if name == b"transfer-encoding":
            self.broken.append("transfer-encoding is the server's to send")
        if name == b"content-length":
            if self._announced is not None or not value.isdigit():
                self.broken.append(f"content-length {value!r} is not one plain number")
            else:
                self._announced = int(value)

    def _body(self, message: dict[str, Any]) -> None:
        if not self.started:
            self.broken.append("http.response.body before http.response.start")
        if foreign := _foreign(message, _BODY):
            self.broken.append(f"unknown members in http.response.body: {foreign}")
        body, more = message.get("body", b""), message.get("more_body", False)
        if type(body) is not bytes or type(more) is not bool:
            self.broken.append(f"body must be bytes and more_body a bool: {message!r}")
            return
        self._sent += len(body)
        bodyless = self._method == "HEAD" or self._status in _BODYLESS
        if bodyless and body and self._method != "HEAD":
            self.broken.append(f"a body with status {self._status}")
        if self._announced is not None and not bodyless and self._sent > self._announced:
            self.broken.append(f"{self._sent} bytes after content-length {self._announced}")
        self.ended = not more
        if self.ended and self._announced not in (None, self._sent) and not bodyless:
            self.broken.append(f"{self._sent} bytes, content-length said {self._announced}")


def _foreign(message: dict[str, Any], known: set[str]) -> list[str]:
    """Members no server knows; ours are passed between parts and say so by their name."""
    return [
        name for name in message if name not in known and not name.startswith("asgi_llm_gateway")
    ]


class ScopeRules:
    """The scope is the server's: an app may add its own key, and changes copies only."""

    def __init__(self, scope: dict[str, Any], may_write: frozenset[str]) -> None:
        self._scope = scope
        self._may_write = may_write
        self._before = copy.deepcopy({k: v for k, v in scope.items() if k != "state"})

    def broken(self) -> list[str]:
        """What was done to the scope that must not be."""
        out = []
        for name, value in self._scope.items():
            allowed = name in self._may_write or name.startswith("starlette.")
            if name == "state" or allowed or self._before.get(name, _ABSENT) == value:
                continue
            out.append(f"scope[{name!r}] was changed or added")
        out += [
            f"scope[{name!r}] was taken out" for name in self._before if name not in self._scope
        ]
        return out


_ABSENT = object()
