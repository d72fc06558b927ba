"""Where an endpoint of a provider is, from whatever form its base URL was written in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote, urlsplit

from ..errors import ConfigurationError, InvalidRequest
from .row import PATHS, Provider

_NAMES: Final = {path: name for name, path in PATHS.items()}
_SUFFIXES: Final = sorted([*PATHS.values(), "/models"], key=len, reverse=True)
"""Endings a pasted full endpoint URL may have; longest first, as one is the end of another."""

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%{}]")
"""What RFC 3986 does not allow unescaped in a URL, but for the braces of {model}."""
_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_DOTS: Final = re.compile(r"(^|/)(\.|%2e){1,2}(/|$)", re.IGNORECASE)
_MODEL: Final = "{model}"


def endpoint_url(
    provider: Provider,
    base_url: str | None,
    endpoint_path: str,
    *,
    paths: Mapping[str, str] | None = None,
    model: str | None = None,
) -> str:
    """The absolute URL of one endpoint (`/chat/completions`, `/files/file-1?limit=2`, …).

    `base_url` (None: the provider's own) may lack its scheme (https then, or http for a host that
    is local by name or address), be a bare host (completed with the provider's version path), end
    in any version path or in slashes, or be the full URL of any endpoint of the same API. Its
    query is kept, and `{model}` in its path or query becomes the model, URL-quoted. `paths`, over
    the provider's own, moves single endpoints by name: from the host's root with a leading slash,
    below the base without one, anywhere with a scheme.

    Raises ConfigurationError for a base or override that is no such URL, and InvalidRequest for
    an endpoint path or a model that would change where the URL leads.
    """
    given = base_url if base_url is not None else provider.base_url
    if given is None:
        raise ConfigurationError(f"provider {provider.name!r} needs a base_url")
    _check_target(endpoint_path)
    base = _Base.parse(given, "base_url")
    path, _, query = endpoint_path.partition("?")
    name = _NAMES.get(path)
    override = {**provider.paths, **(paths or {})}.get(name) if name else None
    if override is None:
        prefix = base.prefix(provider.version_path)
        return base.join(prefix + "/" + path.lstrip("/"), query, model)
    if _SCHEME.match(override):
        base = _Base.parse(override, f"paths.{name}")
        return base.join(base.path or "/", query, model)
    _check_text(override, f"paths.{name}")
    moved, _, own_query = override.partition("?")
    query = "&".join(part for part in (own_query, query) if part)
    if not moved.startswith("/"):
        moved = f"{base.prefix(provider.version_path)}/{moved}"
    return base.join(moved, query, model)


@dataclass(frozen=True, slots=True)
class _Base:
    """A checked base URL in its parts."""

    label: str
    origin: str
    path: str
    query: str

    @classmethod
    def parse(cls, text: str, label: str) -> _Base:
        _check_text(text, label)
        if not _SCHEME.match(text):
            host = re.split(r"[/?]", text.removeprefix("//"), maxsplit=1)[0]
            scheme = "http" if _is_local(host) else "https"
            text = f"{scheme}://{text.removeprefix('//')}"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as exc:
            raise ConfigurationError(f"{label} is not a URL: {exc}") from exc
        if parts.scheme not in ("http", "https"):
            raise ConfigurationError(f"{label} must be http or https, not {parts.scheme}")
        if "@" in parts.netloc:
            raise ConfigurationError(
                f"{label} holds a user name or password; give the provider's key as a key"
            )
        host = parts.hostname or ""
        if _MODEL in host or not (_HOST.fullmatch(host) or _is_ipv6(host)) or port == 0:
            raise ConfigurationError(f"{label} has no usable host and port: {parts.netloc!r}")
        authority = f"[{host}]" if ":" in host else host
        if port is not None:
            authority += f":{port}"
        return cls(label, f"{parts.scheme}://{authority}", parts.path, parts.query)

    def prefix(self, version_path: str) -> str:
        """The path every endpoint's path is appended to."""
        path = self.path.rstrip("/")
        for suffix in _SUFFIXES:
            if path.endswith(suffix):
                return path.removesuffix(suffix).rstrip("/")
        # A bare host gets the provider's version path, and "…/openai" is finished to "/openai/v1"
        # where that is the provider's own.
        return version_path if version_path.startswith(path + "/") else path

    def join(self, path: str, query: str, model: str | None) -> str:
        """The whole URL, its placeholder filled and its query followed by the call's own."""
        target = path + ("?" + self.query if self.query else "")
        if query:
            target += ("&" if self.query else "?") + query
        if _MODEL in target:
            target = target.replace(_MODEL, _quoted(model))
        if "{" in target or "}" in target:
            raise ConfigurationError(f"{self.label} may hold {{model}} and no other braces")
        return self.origin + target


def _quoted(model: str | None) -> str:
    if not model:
        raise InvalidRequest("this route needs a model", param="model")
    if model in (".", ".."):
        raise InvalidRequest("this is no name of a model", param="model")
    try:
        return quote(model, safe="")
    except UnicodeEncodeError as exc:  # a lone surrogate, as JSON can spell one
        raise InvalidRequest("this is no name of a model", param="model") from exc


def _check_text(text: str, label: str) -> None:
    """Refuse what no URL may hold; a message never repeats the text, which may hold a secret."""
    if "#" in text:
        raise ConfigurationError(f"{label} has a fragment (#…), which is never sent; remove it")
    found = _FOREIGN.search(text)
    if found:
        char = ascii(found.group())
        raise ConfigurationError(
            f"{label} holds {char} at position {found.start()}, which no URL may"
        )
    if not text:
        raise ConfigurationError(f"{label} is empty")


def _check_target(text: str) -> None:
    """An endpoint path can come from a caller: it may not leave the API or the request line."""
    path = text.partition("?")[0]
    if "#" in text or "{" in text or "}" in text or _FOREIGN.search(text) or _DOTS.search(path):
        raise InvalidRequest("this path cannot be relayed")


def _is_local(authority: str) -> bool:
    """Whether a host is one that nobody could have a public certificate for."""
    host = authority.rpartition("@")[2].lower()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6 and "%" not in host
    except ValueError:
        return False
