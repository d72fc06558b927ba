"""The composition root: parts and the relay as one ASGI app."""

from .app import Gateway

__all__ = ["Gateway"]
