"""Where secrets are written down: inline, in the environment, in a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import ConfigurationError

_VARIABLE = re.compile(r"\$.*|[A-Z][A-Z0-9]*(_[A-Z0-9]+)*_(KEY|TOKEN|SECRET)")
"""What stands where `env:` was forgotten, or a shell was expected to fill it in."""


def resolve(source: str, environ: Mapping[str, str], *, where: str) -> list[str]:
    """The secrets a source names: `env:NAME`, `file:PATH` (one per line) or the text itself.

    Blank and duplicate lines of a file are skipped, and those that begin with `#`. Raises
    ConfigurationError, naming `where` and what to do, for an unset variable, an unreadable file, a
    line that no HTTP header can carry (named by its number, never by its text), or what looks like
    a variable's name with `env:` forgotten.
    """
    if source.startswith("env:"):
        name = source[4:].strip()
        value = environ.get(name, "").strip()
        if not value:
            raise ConfigurationError(f"{where}: the environment variable {name} is not set; set it")
        return [_checked(value, f"{where}: the environment variable {name}")]
    if source.startswith("file:"):
        return _from_file(Path(source[5:]), where)
    written = source.strip()
    if _VARIABLE.fullmatch(written):
        raise ConfigurationError(
            f"{where}: a key looks like the name of an environment variable; write env:NAME"
        )
    return [_checked(written, f"{where}: a key")] if written else []


def sendable(secrets: Iterable[str]) -> tuple[str, ...]:
    """The secrets as they are. Raises ConfigurationError, which shows none, for one that no HTTP
    header can carry: HTTP libraries repeat such a header in what they raise."""
    found = tuple(secrets)
    for number, secret in enumerate(found, 1):
        if not secret or secret != secret.strip() or not all(" " <= char <= "~" for char in secret):
            raise ConfigurationError(
                f"key {number} of {len(found)} is empty or holds a character that no HTTP header "
                "can carry, such as the line's end; remove it"
            )
    return found


def resolve_all(sources: Iterable[str], environ: Mapping[str, str], *, where: str) -> list[str]:
    """The secrets of several sources, in order, each once."""
    return list(dict.fromkeys(s for one in sources for s in resolve(one, environ, where=where)))


def _from_file(path: Path, where: str) -> list[str]:
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{where}: cannot read {path}: {reason}") from exc
    lines = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
    written = ((n, line) for n, line in lines if line and not line.startswith("#"))
    found = [_checked(line, f"{where}: line {n} of {path}") for n, line in written]
    return list(dict.fromkeys(found))


def _checked(secret: str, where: str) -> str:
    if not all("!" <= char <= "~" for char in secret):
        raise ConfigurationError(
            f"{where} holds a space or a character that no HTTP header can carry; remove it"
        )
    return secret
