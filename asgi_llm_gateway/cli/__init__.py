"""The `llm-gateway` command."""

from .command import main

__all__ = ["main"]
