"""Secrets at rest: AES-GCM under keys that only the environment knows.

What is stored is one version byte, four bytes that name the sealing key, the nonce and the
ciphertext (NIST SP 800-38D; 96-bit random nonces, which is safe for 2^32 values a key).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Sequence

from ..errors import ConfigurationError

_VERSION = b"\x01"
_NAME = 4
_NONCE = 12
_HOW = "make one with: openssl rand -base64 32"


class SealError(ConfigurationError):
    """A stored value that cannot be opened: sealed with a key that is not given here, changed
    since, stored for another purpose, or of an unknown version. It counts as a miss."""

    code = "cannot_open"


class Seal:
    """Seals and opens secrets for the store. The first key seals, all open.

        Seal.of([os.environ["CRYPTO_KEY"]])

    To change the key put the new one in front, restart, and take the old one out when everything
    has been stored again (keys from settings are at every start). Needs the `crypto` extra; raises
    ConfigurationError without it and for a key that is not 16, 24 or 32 bytes long.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as exc:
            raise ConfigurationError(
                "sealing keys at rest needs an extra: pip install 'asgi-llm-gateway[crypto]'"
            ) from exc
        if not keys:
            raise ConfigurationError(f"sealing needs at least one key; {_HOW}")
        if any(len(key) not in (16, 24, 32) for key in keys):
            raise ConfigurationError(f"a sealing key is 16, 24 or 32 bytes long; {_HOW}")
        self._ciphers = {_name_of(key): AESGCM(key) for key in reversed(keys)}
        self._first = _name_of(keys[0])

    @classmethod
    def of(cls, texts: Iterable[str], *, where: str = "[crypto]") -> Seal:
        """A seal from keys as they are written in the environment: base64 or hex.

        Raises ConfigurationError, naming `where` and never the key, for one that is neither.
        """
        return cls([_key_of(text.strip(), where) for text in texts])

    def __repr__(self) -> str:
        return f"Seal({len(self._ciphers)} keys)"

    def seal(self, value: bytes, *, about: bytes = b"") -> bytes:
        """The value made unreadable. `about` must be the same to open it again: a value stored
        under another name is then not taken for this one."""
        head = _VERSION + self._first
        nonce = os.urandom(_NONCE)
        return head + nonce + self._ciphers[self._first].encrypt(nonce, value, head + about)

    def open(self, sealed: bytes, *, about: bytes = b"") -> bytes:
        """The value again. Raises SealError when that cannot be."""
        from cryptography.exceptions import InvalidTag

        head, rest = sealed[: 1 + _NAME], sealed[1 + _NAME :]
        if head[:1] != _VERSION:
            raise SealError("a stored secret is of an unknown version, or was stored unsealed")
        cipher = self._ciphers.get(head[1:])
        if cipher is None:
            raise SealError("a stored secret was sealed with a key that is not given in [crypto]")
        try:
            return cipher.decrypt(rest[:_NONCE], rest[_NONCE:], head + about)
        except (InvalidTag, ValueError) as exc:
            raise SealError("a stored secret was changed or belongs elsewhere") from exc


def _name_of(key: bytes) -> bytes:
    return hashlib.sha256(b"asgi_llm_gateway seal" + key).digest()[:_NAME]


def _key_of(text: str, where: str) -> bytes:
    try:
        if len(text) in (32, 48, 64) and all(char in "0123456789abcdefABCDEF" for char in text):
            return bytes.fromhex(text)
        padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
        key = base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ConfigurationError(f"{where}: a key is neither base64 nor hex; {_HOW}") from exc
    if len(key) not in (16, 24, 32):
        raise ConfigurationError(f"{where}: a key is 16, 24 or 32 bytes long; {_HOW}")
    return key
