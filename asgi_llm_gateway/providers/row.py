"""What a provider is, as data: who it is, where it listens, how a call to it is signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..errors import ConfigurationError, Headers

PATHS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "audio_speech": "/audio/speech",
        "audio_transcriptions": "/audio/transcriptions",
        "audio_translations": "/audio/translations",
        "chat": "/chat/completions",
        "completions": "/completions",
        "embeddings": "/embeddings",
        "images_edits": "/images/edits",
        "images_generations": "/images/generations",
        "images_variations": "/images/variations",
        "moderations": "/moderations",
        "rerank": "/rerank",
        "responses": "/responses",
    }
)
"""Endpoint names and where OpenAI-like providers serve them, below the version (OpenAI's API
reference; rerank as Cohere and vLLM have it)."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """Where a provider differs from OpenAI."""

    stream_options: bool = True
    """`stream_options.include_usage` is understood; where it is not, sending it may be a 400."""
    multiple_choices: bool = True
    """`n` above 1 is honoured."""
    in_process: bool = False
    """Without a base URL this provider is an ASGI app in our own process."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A host that speaks a dialect. Rows live in `rows.py`; a channel may override the base URL."""

    name: str
    base_url: str | None
    """Where it listens; None where each channel must say."""
    dialect: str = "openai"
    """The family of wire formats it speaks."""
    auth: str = "bearer"
    """`bearer` (Authorization: Bearer KEY), `header:NAME` (NAME: KEY) or `none`."""
    endpoints: frozenset[str] = frozenset(PATHS)
    models: tuple[str, ...] = ()
    """Names known when this row was written: what a model listing shows for a glob."""
    version_path: str = "/v1"
    """What a base URL that is a bare host is completed with."""
    paths: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Endpoint name to path, where it is not the one in `PATHS`; see `urls.endpoint_url`."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Sent with every call."""
    quirks: Quirks = Quirks()
    key_required: bool = True
    env: str | None = None
    """The environment variable that conventionally holds its key."""


def auth_headers(provider: Provider, secret: str | None) -> Headers:
    """The headers that sign a call to this provider with this key.

    Raises ConfigurationError for a missing key the provider needs and for one that no header can
    carry (RFC 9110 section 5.5; a newline in it would start a header of its own). The message
    never repeats the key.
    """
    if provider.auth == "none":
        return []
    if not secret:
        if provider.key_required:
            hint = f" (conventionally env:{provider.env})" if provider.env else ""
            raise ConfigurationError(f"provider {provider.name!r} needs a key{hint}")
        return []
    if not all("!" <= char <= "~" for char in secret):
        raise ConfigurationError(
            f"a key of provider {provider.name!r} holds a space, a line break or another character"
            " that no HTTP header can carry"
        )
    value = secret.encode("ascii")
    if provider.auth == "bearer":
        return [(b"authorization", b"Bearer " + value)]
    scheme, _, name = provider.auth.partition(":")
    if scheme != "header" or not name:
        raise ConfigurationError(
            f"auth of provider {provider.name!r} must be 'bearer', 'header:NAME' or 'none'"
        )
    return [(name.lower().encode("ascii"), value)]
