"""Classes of ours that are at home in httpx and in httpx2 alike.

httpx2 has httpx's names and other classes, and both tell what they are given by isinstance. So what
we hand them is made, when it is first needed, a subclass of both libraries' base: one object, and
the user need not know which library the client at hand is built on.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

from ..errors import ConfigurationError

__all__ = ["LIBRARIES", "library_of", "of_both"]

T = TypeVar("T")

LIBRARIES = ("httpx", "httpx2")


def of_both(cls: type[T], base: str) -> type[T]:
    """`cls` as a subclass also of what either library calls `base`; the same one every time.

    Imports whichever of the two is installed, both included: nobody can say which of them the
    object will meet.
    """
    kind: Any = cls
    made: type[T] = _made(kind, base)
    return made


@cache
def _made(cls: Any, base: str) -> Any:
    bases = [getattr(import_module(name), base) for name in LIBRARIES if find_spec(name)]
    about = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls, *bases), about)


def library_of(value: object) -> ModuleType:
    """The library that made `value`; ConfigurationError if neither of the two did."""
    for cls in type(value).__mro__:
        library = cls.__module__.partition(".")[0]
        if library in LIBRARIES:
            return sys.modules[library]
    raise ConfigurationError(f"a {type(value).__name__} is neither httpx's nor httpx2's")
