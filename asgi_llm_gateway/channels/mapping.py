"""One name standing for another: a channel's model mapping, and the aliases before all channels.

Both may go on in chains (a to b, b to c). A chain that comes back to a name it went through never
ends, and is refused when it is written down rather than when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import ConfigurationError

Names = str | Sequence[str]
"""What an alias stands for: a model, or several that are asked in this order."""


def is_glob(name: str) -> bool:
    """Whether a model's name is a pattern."""
    return any(char in name for char in "*?[")


def chained(mapping: Mapping[str, str], where: str) -> dict[str, str]:
    """Each name with the end of its chain.

        chained({"a": "b", "b": "c"}, "channel 'main'")  # {"a": "c", "b": "c"}

    A name that maps to itself is the end of a chain. Raises ConfigurationError, naming `where` and
    the cycle.
    """
    return {name: ends[0] for name, ends in flattened(mapping, where).items()}


def flattened(aliases: Mapping[str, Names], where: str) -> dict[str, tuple[str, ...]]:
    """Each alias with the models it stands for in the end, in order, each once.

        flattened({"best": ["big", "gpt-4o"], "big": "o3"}, "aliases")
        # {"best": ("o3", "gpt-4o"), "big": ("o3",)}

    A name among its own models is the model of that name, so that a model can be given fallbacks.
    Raises ConfigurationError, naming `where` and the alias, for a cycle and for an alias that
    stands for nothing.
    """
    steps = {name: _checked(name, given, where) for name, given in aliases.items()}
    done: dict[str, tuple[str, ...]] = {}
    for name in steps:
        _follow(name, steps, done, where)
    return {name: done[name] for name in steps}


def _checked(name: str, given: object, where: str) -> tuple[str, ...]:
    models = (given,) if isinstance(given, str) else ()
    if not models and isinstance(given, Sequence):
        models = tuple(given)
    if not models or not all(isinstance(model, str) and model for model in models):
        raise ConfigurationError(f"{where}: {name!r} must name a model, or a list of models")
    return models


def _follow(
    start: str, steps: Mapping[str, tuple[str, ...]], done: dict[str, tuple[str, ...]], where: str
) -> None:
    """Put the ends of `start`, and of all it leads to, in `done`.

    A stack of its own: a chain in a settings file may be longer than Python's.
    """
    path: dict[str, None] = {}
    stack = [start]
    while stack:
        name = stack[-1]
        if name in done:
            stack.pop()
            continue
        path[name] = None
        ahead = [n for n in steps[name] if n in steps and n not in done and n != name]
        for step in ahead:
            if step in path:
                raise ConfigurationError(f"{where}: {_cycle(path, step)} goes in a circle; cut it")
        if ahead:
            stack.append(ahead[0])
            continue
        ends = (e for n in steps[name] for e in ((n,) if n == name else done.get(n, (n,))))
        done[name] = tuple(dict.fromkeys(ends))
        del path[name]
        stack.pop()


def _cycle(path: Mapping[str, None], back: str) -> str:
    names = list(path)
    return " -> ".join(repr(name) for name in [*names[names.index(back) :], back])
