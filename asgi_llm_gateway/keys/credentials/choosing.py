"""Which credentials a channel has, by the name settings know them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec

from ...errors import ConfigurationError
from ...state import State
from ...upstream.contract import Upstream
from ..sealing import Seal
from .contract import Credentials, PlainCredentials
from .exchange import TokenExchange
from .refreshing import ExchangedCredentials
from .shared import SharedTokens
from .state_file import FileTokens
from .store import MemoryTokens, TokenStore

CREDENTIALS = ("key", "refresh_token", "client_credentials", "exchange", "caller")
"""What `credential` may be: the key itself; a refresh token; a client's id and secret; any other
exchange, by the `grant` of its TokenExchange; or what each caller brings (see CallerKeys)."""
CALLERS_KEPT = 30 * 86_400.0
"""Seconds a caller's rotated refresh token is kept after its last use."""


def credentials_of(
    credential: str,
    exchange: TokenExchange | None,
    upstream: Upstream,
    store: TokenStore | None = None,
    *,
    where: str = "credential",
    **how: Any,
) -> Credentials:
    """The credentials of a channel; `how` goes to ExchangedCredentials.

    Raises ConfigurationError, naming `where` and the line to add, for what cannot work: above all
    a refresh token that rotates, where nothing outlives the process.
    """
    if credential not in CREDENTIALS:
        raise ConfigurationError(f"{where}: credential is one of {', '.join(CREDENTIALS)}")
    if exchange is None:
        if credential in ("key", "caller"):
            return PlainCredentials()
        raise ConfigurationError(f"{where}: credential = {credential!r} needs a token_url")
    if credential == "key":
        raise ConfigurationError(f"{where}: a token_url needs credential = 'refresh_token'")
    if credential == "client_credentials" and exchange.grant == "refresh_token":
        exchange = replace(exchange, grant=credential)  # nobody wrote that grant: it is the default
    if credential not in ("caller", "exchange", exchange.grant):
        raise ConfigurationError(
            f"{where}: credential = {credential!r} and grant = {exchange.grant!r} contradict "
            "each other; drop one"
        )
    if exchange.may_rotate and (store is None or not store.durable):
        raise ConfigurationError(
            f"{where}: a refresh token that rotates would be lost at a restart: add [state] "
            "store = 'redis://…' or state_file = 'tokens.json', or rotates = false if your token "
            "host never replaces it"
        )
    return ExchangedCredentials(exchange, upstream, store, **how)


def exchange_of(table: Mapping[str, Any], *, where: str) -> TokenExchange:
    """The exchange a settings table, or a provider's row, describes: TokenExchange's own fields.

    Raises ConfigurationError, naming `where` and the field and never a value.
    """
    known = [field.name for field in fields(TokenExchange)]
    if unknown := sorted(set(table) - set(known)):
        raise ConfigurationError(
            f"{where}: there is no field {unknown[0]!r}; known are {', '.join(known)}"
        )
    try:
        return msgspec.convert(dict(table), TokenExchange)
    except (msgspec.ValidationError, ConfigurationError) as exc:
        raise ConfigurationError(f"{where}: {exc}") from exc


def tokens_of(
    state: State | None = None,
    state_file: str | Path | None = None,
    *,
    seal: Seal | None = None,
    callers: bool = False,
) -> TokenStore:
    """Where tokens are kept: in the shared state if there is one, else in the file, else in this
    process. `callers`: they belong to callers, and are kept for a month only.

    Raises ConfigurationError for a file that cannot be written.
    """
    how: dict[str, Any] = {"kept": CALLERS_KEPT} if callers else {}
    if state is not None and state.shared:
        return SharedTokens(state, seal=seal, **how)
    if state_file is not None:
        tokens = FileTokens(state_file, seal=seal, **how)
        tokens.check()
        return tokens
    return MemoryTokens()
