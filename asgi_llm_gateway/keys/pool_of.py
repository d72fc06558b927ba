"""The pool a channel's settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ..state import State
from .limits import KeyLimits
from .pool import ManagedPool, MemoryKeyPool
from .sealing import Seal

_NO_LIMITS = KeyLimits()


def pool_of(
    name: str,
    secrets: Sequence[str],
    *,
    choose: str = "random",
    limits: KeyLimits = _NO_LIMITS,
    state: State | None = None,
    seal: Seal | None = None,
    rng: Random | None = None,
) -> ManagedPool:
    """Keys in the shared store if there is one, else in memory. `name` is the channel's."""
    if state is None or not state.shared:
        return MemoryKeyPool(secrets, choose=choose, limits=limits, rng=rng)
    from .redis import RedisKeyPool

    return RedisKeyPool(
        name,
        secrets,
        state=state,
        choose=choose,
        limits=limits,
        seal=seal,
        on_state_failure=state.on_failure,
        rng=rng,
    )
