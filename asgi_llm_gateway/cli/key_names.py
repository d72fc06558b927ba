"""How keys are named on a command line, which other users of the machine can read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable

from ..errors import ConfigurationError
from ..keys.key import FINGERPRINT, Key
from ..keys.sources import resolve

_FINGERPRINT = re.compile(f"[0-9a-f]{{{FINGERPRINT}}}")
_ID = re.compile(r"[0-9a-f]{64}")
_STDIN = "-"


def secrets_given(sources: Iterable[str], *, plain: bool) -> list[str]:
    """The secrets that `env:NAME`, `file:PATH` and `-` (standard input) stand for, each once.

    Without any source it is standard input, one secret a line. With `plain` a source may also be a
    secret itself. Raises ConfigurationError, which never repeats what may be a secret.
    """
    found: list[str] = []
    for source in list(sources) or [_STDIN]:
        if source == _STDIN:
            found += _from_stdin()
        elif plain or source.startswith(("env:", "file:")):
            found += resolve(source, os.environ, where="the command line")
        else:
            raise ConfigurationError(
                "a secret on the command line can be read by everybody on this machine: pipe it "
                "in, name env:NAME or file:PATH, or add --plain if that is all right (fingerprints "
                "have 12 hex digits, as `llm-gateway keys list` shows them)"
            )
    if not found:
        raise ConfigurationError("there is no key in what was given")
    return list(dict.fromkeys(found))


def named_fingerprints(names: Iterable[str], *, plain: bool) -> list[str]:
    """The fingerprints of keys named by fingerprint, by their whole SHA-256, or by where their
    secret is, as in `secrets_given`."""
    found: list[str] = []
    for name in names:
        if _FINGERPRINT.fullmatch(name) or _ID.fullmatch(name):
            found.append(name[:FINGERPRINT])
        else:
            found += [Key(secret).fingerprint for secret in secrets_given([name], plain=plain)]
    return list(dict.fromkeys(found))


def _from_stdin() -> list[str]:
    if sys.stdin.isatty():
        print("One key a line; end with Ctrl-D.", file=sys.stderr)
    lines = enumerate(sys.stdin.read().splitlines(), 1)
    return [
        secret
        for number, line in lines
        for secret in resolve(line.strip(), os.environ, where=f"line {number} of standard input")
    ]
