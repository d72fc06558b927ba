"""From a key to what goes on the wire: the key itself, or an access token it is exchanged for."""

from __future__ import annotations

from .caller import CallerKeys
from .choosing import CREDENTIALS, credentials_of, exchange_of, tokens_of
from .contract import Credentials, PlainCredentials
from .exchange import Exchanged, TokenExchange, TokenExchangeFailed
from .refreshing import ExchangedCredentials
from .shared import SharedTokens
from .state_file import FileTokens
from .store import Found, Grant, MemoryTokens, TokenStore

__all__ = [
    "CREDENTIALS",
    "CallerKeys",
    "Credentials",
    "Exchanged",
    "ExchangedCredentials",
    "FileTokens",
    "Found",
    "Grant",
    "MemoryTokens",
    "PlainCredentials",
    "SharedTokens",
    "TokenExchange",
    "TokenExchangeFailed",
    "TokenStore",
    "credentials_of",
    "exchange_of",
    "tokens_of",
]
