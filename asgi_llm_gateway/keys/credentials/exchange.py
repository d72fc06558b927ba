"""How a key is exchanged for an access token, as data. Pure: a request out, an answer in.

TokenExchange(token_url="https://auth.example.com/oauth/token", client_id="app")
TokenExchange(token_url="https://auth.example.com/token", grant="client_credentials",
              client_auth="basic", params={"scope": "chat"})
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode

import msgspec

from ...errors import ConfigurationError, Headers, KeyRevoked, UpstreamError
from ...upstream.contract import Origin, UpstreamRequest
from .answers import at_path, document_of, expiry, token_at

_BODIES = ("form", "json", "query", "none")
_CLIENT_AUTHS = ("body", "basic")
_STANDARD = ("client_id", "client_secret", "grant_type", "refresh_token")
_TELLING = frozenset(
    {
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
"""Errors of RFC 6749 section 5.2. Only these are repeated in messages: any other text may be the
host quoting the token at us."""
_LONGEST_WAIT = 60.0
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding"})


class TokenExchangeFailed(UpstreamError):
    """A token host gave no token this time; the key may be good all the same."""

    code = "token_exchange_failed"


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What a token host gave: the access token, until when (unix seconds), and the refresh token
    that replaces the one it was shown, if it sent one. Its repr shows neither token."""

    secret: str = field(repr=False)
    expires_at: float
    rotated: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExchange:
    """One kind of token exchange; the key's secret is all that is not in here.

    `grant` is the `grant_type` sent: `refresh_token` (RFC 6749 section 6), `client_credentials`
    (section 4.4; the key is then `id:secret` or `id|secret`), any other, or empty for a host that
    knows no such thing. `body` is how parameters travel: `form`, `json`, `query` or `none`.
    `client_auth` is where the client's id and secret go: `body`, or `basic` (section 2.3.1).
    `names` renames the standard parameters (an empty name leaves one out), `params` and `headers`
    are sent besides; in their values `{secret}`, `{client_id}` and `{client_secret}` are filled in.

    `access_token`, `expires_in`, `expires_at`, `refresh_token` and `error` are dotted paths into
    the answer. `revoked` are the errors, or HTTP statuses, that mean the key can never be used
    again: `invalid_grant`, and for client credentials `invalid_client`, unless given. `lifetime`
    (seconds) is what a token lives whose host does not say. `rotates`: a refresh token may be
    replaced at every use, which must be believed of any host (section 6) unless you know better.

    Raises ConfigurationError for what cannot work. Its repr shows no secret and no URL.
    """

    token_url: str = field(repr=False)
    grant: str = "refresh_token"
    method: str = "POST"
    body: str = "form"
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    client_auth: str = "body"
    names: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str | int | bool] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    access_token: str = "access_token"  # noqa: S105 - the name of a field
    expires_in: str = "expires_in"
    expires_at: str = "expires_at"
    refresh_token: str = "refresh_token"  # noqa: S105 - likewise
    error: str = "error"
    revoked: tuple[str | int, ...] | None = None
    lifetime: float = 600.0
    rotates: bool | None = None

    def __post_init__(self) -> None:
        try:
            Origin.split(self.token_url)
        except ConfigurationError as exc:  # its message shows the URL, which may hold a secret
            raise ConfigurationError("token_url must be an absolute http or https URL") from exc
        for what, known in (("body", _BODIES), ("client_auth", _CLIENT_AUTHS)):
            if (given := getattr(self, what)) not in known:
                raise ConfigurationError(f"{what} is one of {', '.join(known)}, not {given!r}")
        if self.method not in ("GET", "POST"):
            raise ConfigurationError(f"method is GET or POST, not {self.method!r}")
        if self.method == "GET" and self.body in ("form", "json"):
            raise ConfigurationError('a GET has no body: add body = "query" or body = "none"')
        if unknown := sorted(set(self.names) - set(_STANDARD)):
            raise ConfigurationError(
                f"names renames {', '.join(_STANDARD)}, and not {unknown[0]!r}"
            )
        if not self.access_token:
            raise ConfigurationError("access_token names the answer's field; it cannot be empty")
        if not 0 < self.lifetime < float("inf"):
            raise ConfigurationError("lifetime must be above 0 seconds and finite")
        for name, value in self.headers.items():
            if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
                raise ConfigurationError(f"{name!r} is no header you can set")
            if not _VALUE.fullmatch(value):
                raise ConfigurationError(f"no HTTP header can carry the value of {name!r}")

    @property
    def may_rotate(self) -> bool:
        """Whether an answer may bring a refresh token that replaces the one shown."""
        refreshes = self.grant == "refresh_token"
        return refreshes if self.rotates is None else refreshes and self.rotates

    @property
    def realm(self) -> str:
        """What a key's tokens are kept under besides the key: who gave them, and to which client.

        Scopes, names and client secrets may change without losing a rotated refresh token.
        """
        return _digest(self.token_url, self.client_id, self.grant)

    @property
    def terms(self) -> str:
        """What an access token was asked for: one asked for otherwise is not used."""
        return _digest(sorted(self.params.items()), self.access_token)[:16]

    def exchange_request(self, secret: str) -> UpstreamRequest:
        """The request that shows `secret`, the key or the refresh token that has replaced it.

        Raises KeyRevoked for a secret that cannot be sent, such as a client's id without a secret.
        """
        values = self._values(secret)
        params = self._params(values)
        headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "asgi-llm-gateway",
        }
        body = b""
        origin, target = Origin.split(self.token_url)
        if self.body == "form":
            headers["content-type"] = "application/x-www-form-urlencoded"
            body = urlencode(params).encode()
        elif self.body == "json":
            headers["content-type"] = "application/json"
            body = msgspec.json.encode(params)
        elif self.body == "query" and params:
            target += ("&" if "?" in target else "?") + urlencode(params)
        if self.client_auth == "basic" and values["client_id"]:
            pair = f"{quote_plus(values['client_id'])}:{quote_plus(values['client_secret'])}"
            headers["authorization"] = "Basic " + b64encode(pair.encode()).decode()
        headers |= {name.lower(): _filled(text, values) for name, text in self.headers.items()}
        # A connection of its own: a request on a kept one may be sent twice by whoever keeps it,
        # and a refresh token that is shown twice is taken for stolen (RFC 9700 section 4.14.2).
        headers["connection"] = "close"
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        return UpstreamRequest(self.method, origin, target, pairs, body)

    def _values(self, secret: str) -> dict[str, str]:
        """What the placeholders stand for."""
        if not secret or not all(" " <= char <= "~" for char in secret):
            raise KeyRevoked("the key holds a character that no token host can be sent")
        client, client_secret = self.client_id, self.client_secret
        if self.grant == "client_credentials" and client is None:
            client, bar, client_secret = secret.partition("|" if "|" in secret else ":")
            if not (client and bar and client_secret):
                raise KeyRevoked("the key must be a client's id and secret, written id:secret")
        elif self.grant == "client_credentials" and client_secret is None:
            client_secret = secret
        return {
            "secret": secret,
            "client_id": client or "",
            "client_secret": client_secret or "",
        }

    def _params(self, values: Mapping[str, str]) -> dict[str, Any]:
        """The parameters by the names this host has for them (RFC 6749 sections 4.4.2 and 6)."""
        standard: dict[str, str] = {"grant_type": self.grant}
        if self.grant == "refresh_token":
            standard["refresh_token"] = values["secret"]
        if self.client_auth == "body":
            standard |= {name: values[name] for name in ("client_id", "client_secret")}
        named = {self.names.get(name, name): value for name, value in standard.items() if value}
        named.pop("", None)
        wire: dict[str, Any] = dict(named)
        for name, value in self.params.items():
            if isinstance(value, str):
                wire[name] = _filled(value, values)
            else:
                plain = self.body != "json" and isinstance(value, bool)
                wire[name] = str(value).lower() if plain else value
        return wire

    def read_exchange(self, status: int, headers: Headers, body: bytes, now: float) -> Exchanged:
        """What the host's answer gives (RFC 6749 section 5.1), `now` in unix seconds.

        Raises KeyRevoked for the answers that mean it (section 5.2; never a 429 or a 5xx, whatever
        they say), TokenExchangeFailed for every other one that brings no token.
        """
        if status == 429 or status >= 500:
            raise TokenExchangeFailed(
                f"the token host answered {status}", retry_after=_retry_after(headers)
            )
        document = document_of(body)
        error = None if document is None else at_path(document, self.error)
        revoked = self._revoked()
        if status in revoked or (isinstance(error, str) and error in revoked):
            why = error if isinstance(error, str) and error in revoked else status
            raise KeyRevoked(f"the token host takes this key no more ({why})")
        if not 200 <= status < 300 or error:
            known = isinstance(error, str) and error in _TELLING
            why = f"{status}, {error}" if known else str(status)
            raise TokenExchangeFailed(f"the token host gave no token ({why})")
        if document is None:
            raise TokenExchangeFailed("the token host's answer is not a JSON object")
        return self._read(document, now)

    def _read(self, document: dict[str, Any], now: float) -> Exchanged:
        secret = token_at(document, self.access_token)
        if secret is None:
            raise TokenExchangeFailed(f"the token host's answer has no {self.access_token}")
        rotated = None
        if self.grant == "refresh_token" and at_path(document, self.refresh_token):
            rotated = token_at(document, self.refresh_token, blanks=True)
            if rotated is None:
                raise TokenExchangeFailed(f"the token host's {self.refresh_token} is no token")
        until = expiry(
            at_path(document, self.expires_in),
            at_path(document, self.expires_at),
            secret,
            now=now,
            lifetime=self.lifetime,
        )
        return Exchanged(secret, until, rotated)

    def _revoked(self) -> tuple[str | int, ...]:
        if self.revoked is not None:
            return self.revoked
        # The client of a refresh token is the operator's and shared by all keys: that it is
        # refused says nothing about one of them.
        if self.grant == "client_credentials" and self.client_secret is None:
            return ("invalid_grant", "invalid_client")
        return ("invalid_grant",)


def _filled(text: str, values: Mapping[str, str]) -> str:
    # One pass, so that a secret which looks like a placeholder is not filled in once more.
    return re.sub(r"\{(secret|client_id|client_secret)\}", lambda found: values[found[1]], text)


def _retry_after(headers: Headers) -> float | None:
    for name, value in headers:
        if name.lower() == b"retry-after" and value.strip().isdigit() and len(value) < 10:
            return min(float(value), _LONGEST_WAIT)
    return None


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
