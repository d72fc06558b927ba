"""Callers and their access tokens."""

from .middleware import TokenAuthMiddleware
from .store import MemoryTokenStore, TokenStore
from .token import AccessToken

__all__ = ["AccessToken", "MemoryTokenStore", "TokenAuthMiddleware", "TokenStore"]
