"""The mountable app that relays calls to channels."""

from .app import Relay

__all__ = ["Relay"]
