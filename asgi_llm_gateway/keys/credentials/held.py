"""What a process remembers of one key's tokens. Pure: it is told the time."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigurationError, GatewayError, KeyRevoked, StateUnavailable
from .exchange import Exchanged, TokenExchangeFailed
from .store import Grant

_SHORTEST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0
REVOKED_FOR = 30.0
"""Seconds a revoked key is refused without asking again: by then the pool has removed it."""
RENEWED_FOR = 10.0
"""A token fetched because of a 401 and refused within so many seconds is not at fault itself."""
_LAST_SECONDS = 5.0
"""The end of a token's life, in which it is used only if no other can be had."""


def grant_of(
    exchanged: Exchanged, *, now: float, margin: float, refresh: str | None, terms: str
) -> Grant:
    """The grant of an answer: renewed `margin` seconds before it expires, but of a short life no
    more than a fifth early. `refresh` is the refresh token to show next."""
    early = min(margin, (exchanged.expires_at - now) / 5)
    return Grant(
        exchanged.secret, exchanged.expires_at, exchanged.expires_at - early, refresh, terms
    )


@dataclass(frozen=True, slots=True)
class Unsaved:
    """A grant with a new refresh token that its store has not taken yet."""

    name: str
    owner: str
    grant: Grant
    serial: int


class Held:
    """One key's token, and what went wrong with it lately. `now` is wall time, `tick` monotonic."""

    __slots__ = ("_failure", "_failures", "_paused", "_renewed", "grant", "refused", "unsaved")

    def __init__(self) -> None:
        self.grant: Grant | None = None
        self.refused: str | None = None
        """The access token the provider answered 401 to last."""
        self.unsaved: Unsaved | None = None
        self._failure: GatewayError | None = None
        self._failures = 0
        self._paused = 0.0
        self._renewed = float("-inf")

    def good(self, now: float, *, almost_over: bool = False) -> bool:
        """Whether the token held may be used; `almost_over`: also in the last seconds of it."""
        grant = self.grant
        if grant is None:
            return False
        margin = grant.expires_at - grant.renew_at
        last = 0.0 if almost_over else min(_LAST_SECONDS, margin / 4)
        return now < grant.expires_at - last

    def usable(self, grant: Grant | None, terms: str, now: float) -> bool:
        """Whether a stored grant spares an exchange."""
        return (
            grant is not None
            and grant.secret != self.refused
            and grant.terms == terms
            and now < grant.renew_at
        )

    def refuse(self, token: str) -> None:
        """The provider answered 401 to it; late news of an earlier token changes nothing."""
        if self.grant is not None and self.grant.secret == token:
            self.grant, self.refused = None, token
        elif self.grant is None and self.refused is None:
            self.refused = token

    def in_vain(self, token: str, tick: float) -> bool:
        """Whether another token would be refused as well: this one was new."""
        grant = self.grant
        if grant is None or grant.secret != token:
            return False
        return tick - self._renewed < RENEWED_FOR

    def adopt(self, grant: Grant, tick: float) -> None:
        """A token was had."""
        if self.grant is None and self.refused is not None:
            self._renewed = tick
        self.grant = grant
        self._failure, self._failures, self._paused = None, 0, 0.0

    def failed(self, failure: GatewayError, tick: float) -> None:
        """None was had. The first failure is forgotten at once, so that a host that failed once is
        asked again; the next ones keep callers away for longer and longer."""
        if isinstance(failure, KeyRevoked):
            self.grant = None
            pause = REVOKED_FOR
        else:
            self._failures += 1
            doubled = _SHORTEST_PAUSE * 2.0 ** min(self._failures - 2, 10)
            pause = min(doubled, _LONGEST_PAUSE) if self._failures > 1 else 0.0
        self._failure, self._paused = failure, tick + max(pause, failure.retry_after or 0.0)

    def paused(self, tick: float) -> GatewayError | None:
        """The failure that is not to be repeated yet, as a new exception."""
        if self._failure is None or tick >= self._paused:
            return None
        return again(self._failure)


def again(failure: GatewayError) -> GatewayError:
    """The failure for one more caller: an exception raised twice would gather both's frames."""
    kind: type[GatewayError] = TokenExchangeFailed
    for known in (KeyRevoked, StateUnavailable, ConfigurationError):
        if isinstance(failure, known):
            kind = known
    copy = kind(failure.message, code=failure.code, retry_after=failure.retry_after)
    copy.__cause__ = failure.__cause__
    return copy
