"""Where access tokens are kept, found by the SHA-256 of their secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ..errors import ConfigurationError
from .token import AccessToken


class TokenStore(Protocol):
    """A place that knows access tokens.

    It only finds: whether the token is enabled, has not expired and really belongs to the secret
    is checked by the middleware, on every call. Answers are kept for `cache_ttl` seconds.
    """

    async def get(self, sha256: str) -> AccessToken | None:
        """The token whose `sha256` or `previous` this is (64 lower-case hexadecimal digits).

        None when there is none; a GatewayError (`Unavailable`) when the store cannot be asked.
        """
        ...


class MemoryTokenStore:
    """Access tokens held in a dict.

        MemoryTokenStore([AccessToken.of("sk-alice", name="alice")])

    The look-up goes by the whole hash, of which a caller who does not know a secret can steer
    nothing; what it finds is compared once more in constant time. Raises ConfigurationError when
    two tokens have the same secret.
    """

    def __init__(self, tokens: Iterable[AccessToken] = ()) -> None:
        self.swap(tokens)

    @classmethod
    def of(
        cls, tokens: Mapping[str, Mapping[str, Any]] | Iterable[AccessToken | Mapping[str, Any]]
    ) -> MemoryTokenStore:
        """From what `access_tokens=` takes: fields by secret, tokens, or tables of settings."""
        if isinstance(tokens, Mapping):
            return cls(_described(secret, fields) for secret, fields in tokens.items())
        return cls(
            token if isinstance(token, AccessToken) else _described(None, token) for token in tokens
        )

    def __len__(self) -> int:
        return len({id(token) for token in self._by_hash.values()})

    def find(self, sha256: str) -> AccessToken | None:
        """`get` for callers that cannot wait."""
        return self._by_hash.get(sha256)

    async def get(self, sha256: str) -> AccessToken | None:
        """The token with this hash, present or previous."""
        return self._by_hash.get(sha256)

    def swap(self, tokens: Iterable[AccessToken]) -> None:
        """Put other tokens in place of all; calls that were let in already are not affected."""
        by_hash = _indexed(tokens)
        self._by_hash = by_hash
        self.pins = any(token.pin for token in by_hash.values())
        """Whether any of them may name a channel behind its secret."""


def _described(secret: str | None, fields: object) -> AccessToken:
    if not isinstance(fields, Mapping):
        raise ConfigurationError(
            f"access_tokens: an access token is described by a table, not by a "
            f'{type(fields).__name__}; write {{"name": "alice"}}'
        )
    return AccessToken.from_mapping(secret, fields)


def _indexed(tokens: Iterable[AccessToken]) -> dict[str, AccessToken]:
    found: dict[str, AccessToken] = {}
    for token in tokens:
        for digest in {token.sha256, token.previous} - {None}:
            if (other := found.get(digest or "")) is not None:
                raise ConfigurationError(
                    f"the access tokens {other.name!r} and {token.name!r} have the same secret"
                )
            found[digest or ""] = token
    return found
