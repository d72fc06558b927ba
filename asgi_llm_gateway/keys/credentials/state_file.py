"""Grants in one JSON file: for refresh tokens that rotate where there is no shared store."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from ...errors import ConfigurationError, StateUnavailable
from ..sealing import Seal
from .store import KEPT, LEASE, Found, Grant, restored, stored

T = TypeVar("T")
_MODE = 0o600
_VERSION = 1


class _Token(msgspec.Struct):
    value: str
    serial: int
    until: float


class _Claim(msgspec.Struct):
    owner: str
    until: float


class _Document(msgspec.Struct):
    """What the file holds. Members a newer version adds are not lost on a mere look at it: with
    another `version` it is refused."""

    version: int = _VERSION
    tokens: dict[str, _Token] = msgspec.field(default_factory=dict)
    claims: dict[str, _Claim] = msgspec.field(default_factory=dict)


class FileTokens:
    """A TokenStore in the file at `path`, mode 0600, written whole and atomically, sealed with a
    `seal`. Processes of one machine may share it (a lock file lies beside it).

    Reading and writing happen in threads. A file that is not one of ours is never written to:
    that is a ConfigurationError, from `check` at the start or from the call. What the system
    refuses later is StateUnavailable.
    """

    durable = True

    def __init__(
        self,
        path: str | Path,
        *,
        seal: Seal | None = None,
        lease: float = LEASE,
        kept: float = KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # A link keeps its place: what it leads to is replaced, not the link.
        self._path = Path(os.path.realpath(Path(path).expanduser()))
        self._seal = seal
        self._lease = lease
        self._kept = kept
        self._clock = clock
        self._one = threading.Lock()

    def check(self) -> None:
        """Raises ConfigurationError, naming the line to change, where tokens could not be kept."""
        try:
            with self._locked():
                document, _ = self._read()
                for name in document.tokens:
                    self._found(name, document)
                self._write(msgspec.json.encode(document))
        except OSError as exc:
            raise ConfigurationError(
                f"state_file {str(self._path)!r} cannot be written ({exc.strerror}): "
                "name a file in a folder this user may write to"
            ) from exc

    async def load(self, name: str) -> Found:
        """What is there."""
        return await asyncio.to_thread(self._safely, lambda: self._found(name, self._read()[0]))

    async def claim(self, name: str, owner: str) -> Found:
        """What is there, and the claim if nobody else has it."""

        def claimed(document: _Document) -> Found:
            now = self._clock()
            held = document.claims.get(name)
            # A claim that lasts longer than a lease was made before the clock was set back.
            free = held is None or not now < held.until <= now + self._lease
            free = free or (held is not None and held.owner == owner)
            if free:
                document.claims[name] = _Claim(owner, now + self._lease)
            return self._found(name, document, mine=document.claims[name].owner == owner)

        return await asyncio.to_thread(self._safely, lambda: self._changed(claimed))

    async def save(self, name: str, owner: str, grant: Grant, serial: int) -> bool:
        """Keep the grant and free the claim."""

        def saved(document: _Document) -> bool:
            _free(document, name, owner)
            known = document.tokens.get(name)
            if known is not None and known.serial > serial:
                return False
            value = b64encode(stored(name, grant, self._seal)).decode()
            until = grant.kept_until(self._clock(), self._kept)
            document.tokens[name] = _Token(value, serial + 1, until)
            return True

        return await asyncio.to_thread(self._safely, lambda: self._changed(saved))

    async def free(self, name: str, owner: str) -> None:
        """Give the claim up, if it is still the owner's."""
        freed = lambda document: _free(document, name, owner)  # noqa: E731
        await asyncio.to_thread(self._safely, lambda: self._changed(freed))

    # Below here in a thread

    def _safely(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as exc:
            raise StateUnavailable(f"the state file cannot be used: {exc.strerror}") from exc

    def _found(self, name: str, document: _Document, *, mine: bool = False) -> Found:
        kept = document.tokens.get(name)
        if kept is None:
            return Found(mine=mine)
        try:
            value = b64decode(kept.value, validate=True)
        except ValueError as exc:
            raise self._not_ours() from exc
        return Found(restored(name, value, self._seal), kept.serial, mine)

    def _changed(self, change: Callable[[_Document], T]) -> T:
        with self._locked():
            document, raw = self._read()
            result = change(document)
            now = self._clock()
            document.tokens = {n: kept for n, kept in document.tokens.items() if now < kept.until}
            document.claims = {n: held for n, held in document.claims.items() if now < held.until}
            if (changed := msgspec.json.encode(document)) != raw:
                self._write(changed)
            return result

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the threads and processes that share the file, for milliseconds."""
        with self._one:
            lock = os.open(self._beside(".lock"), os.O_RDWR | os.O_CREAT, _MODE)
            try:
                _lock_whole(lock)
                yield
            finally:
                os.close(lock)  # and with it the lock

    def _read(self) -> tuple[_Document, bytes]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return _Document(), b""
        try:
            document = msgspec.json.decode(raw, type=_Document)
        except msgspec.DecodeError as exc:
            raise self._not_ours() from exc
        if document.version != _VERSION:
            raise self._not_ours()
        return document, raw

    def _not_ours(self) -> ConfigurationError:
        return ConfigurationError(
            f"state_file {str(self._path)!r} holds something else than this version's tokens: "
            "name another file, or move it away"
        )

    def _write(self, raw: bytes) -> None:
        """Whole or not at all, also when the power fails: written beside it, flushed, renamed."""
        beside = self._beside(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(beside, flags, _MODE), "wb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != _MODE:
                os.chmod(beside, _MODE)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
        if os.name == "posix":
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _beside(self, ending: str) -> str:
        return str(self._path) + ending


def _free(document: _Document, name: str, owner: str) -> None:
    held = document.claims.get(name)
    if held is not None and held.owner == owner:
        del document.claims[name]


def _lock_whole(descriptor: int) -> None:
    """Wait for the lock file. Where the system has no flock, one process must be alone."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
