"""A Lua script of this package, and the name the store knows it by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files

__all__ = ["Script"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 that EVALSHA takes for it (redis.io, commands/evalsha)."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False)
        object.__setattr__(self, "sha", digest.hexdigest())

    @classmethod
    def of(cls, package: str, file: str) -> Script:
        """The script shipped as `file` beside the modules of `package`; read now."""
        return cls(files(package).joinpath(file).read_text("utf-8"))
