"""An LLM gateway that lives inside your own ASGI app."""

__version__ = "0.1.0.dev0"
