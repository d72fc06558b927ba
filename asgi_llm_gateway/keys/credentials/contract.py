"""What the relay asks of a credential, and the kind that is the key itself."""

from __future__ import annotations

from typing import Protocol

from ..key import Key


class Credentials(Protocol):
    """What a channel shows its provider for a key."""

    async def secret(self, key: Key) -> str:
        """What goes on the wire for this key.

        Raises KeyRevoked when the key can never be used again, another UpstreamError when its
        token host failed, StateUnavailable when a rotated refresh token could not be saved.
        """
        ...

    async def renew(self, key: Key, refused: str) -> bool:
        """The provider answered 401 to `refused`: True when `secret` has another one now.

        False means that the key itself is refused. Raises what `secret` raises.
        """
        ...

    async def aclose(self) -> None:
        """Finish what must not be lost; what was given from outside stays open."""
        ...


class PlainCredentials:
    """The ordinary kind: the key is what goes on the wire, and there is no other."""

    async def secret(self, key: Key) -> str:
        """The key's own secret."""
        return key.secret

    async def renew(self, key: Key, refused: str) -> bool:  # noqa: ARG002 - one signature
        """Never: who is refused with it stays refused."""
        return False

    async def aclose(self) -> None:
        """Nothing is open."""
