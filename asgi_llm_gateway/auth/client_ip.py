"""The caller's address, and whether it is on a list: never believing more than the peer itself.

`X-Forwarded-For` can be written by anybody, so it counts only when the peer is a proxy the operator
named, and then only from its right end: each trusted proxy appended the address it was called from,
so the right-most hop that is no trusted proxy is the last one somebody we trust has seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from starlette.types import Scope

from ..errors import ConfigurationError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX = "unix"
"""In `trusted_proxies`: a peer without an address, as on a unix socket."""

_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::\d{1,5})?")
_V4_WITH_PORT = re.compile(r"([0-9.]+):\d{1,5}")
_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_networks(values: Iterable[str | Network], *, where: str) -> tuple[Network, ...]:
    """The networks of a list of addresses and CIDR blocks, IPv4-mapped ones as plain IPv4.

    Raises ConfigurationError naming `where` and the entry that is no network.
    """
    if isinstance(values, str):
        raise ConfigurationError(f"{where} is a list; put {values!r} in [ ]")
    return tuple(_network(value, where) for value in values)


def _network(value: str | Network, where: str) -> Network:
    if not isinstance(value, str | IPv4Network | IPv6Network):
        raise ConfigurationError(f"{where}: {value!r} is no text; write an address or a CIDR block")
    try:
        network = ip_network(value)
    except ValueError as exc:
        raise ConfigurationError(
            f"{where}: {value!r} is no address and no CIDR block ({_reason(value)})"
        ) from exc
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & 0xFFFF_FFFF
        return IPv4Network((low, network.prefixlen - 96))
    return network


def _reason(value: str | Network) -> str:
    try:
        return f"bits are set beyond the prefix; write {ip_network(value, strict=False)}"
    except ValueError:
        return "write it like 10.0.0.0/8 or 2001:db8::1"


def parse_address(text: str) -> Address | None:
    """The address a peer or a hop is written as; None for what is none.

    Brackets, a port and a zone id are taken off, an IPv4-mapped address becomes plain IPv4.
    """
    text = text.strip(" \t")
    if match := _BRACKETED.fullmatch(text) or _V4_WITH_PORT.fullmatch(text):
        text = match[1]
    bare, percent, zone = text.partition("%")
    if percent and (not zone or ":" not in bare):
        return None
    try:
        address = ip_address(bare)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The proxies whose word on where a call comes from is taken."""

    networks: tuple[Network, ...] = ()
    unix: bool = False

    @classmethod
    def of(cls, values: Iterable[str | Network]) -> TrustedProxies:
        """From addresses, CIDR blocks and the word `unix`; ConfigurationError names a bad one."""
        if isinstance(values, str):
            raise ConfigurationError(f"trusted_proxies is a list; put {values!r} in [ ]")
        values = list(values)
        blocks = [value for value in values if value != UNIX]
        return cls(parse_networks(blocks, where="trusted_proxies"), UNIX in values)

    def address_of(self, scope: Scope) -> Address | None:
        """Where the call comes from; None when that cannot be known."""
        client = scope.get("client")
        peer = parse_address(client[0]) if client and client[0] else None
        if client and client[0]:
            believed = peer is not None and contains(self.networks, peer)
        else:
            believed = self.unix
        if not believed:
            return peer
        hops = forwarded_for(scope)
        return self._last_untrusted(hops) if hops else peer

    def _last_untrusted(self, hops: list[str]) -> Address | None:
        """A hop that is no address ends the search: what is left of it proves nothing."""
        address = None
        for hop in reversed(hops):
            address = parse_address(hop)
            if address is None or not contains(self.networks, address):
                return address
        return address


def forwarded_for(scope: Scope) -> list[str]:
    """The hops of every `X-Forwarded-For` header, left (furthest away) to right."""
    found = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return b",".join(found).decode("latin-1").split(",") if found else []


def contains(networks: Iterable[Network], address: Address) -> bool:
    """Whether the address is in one of the networks."""
    return any(address in network for network in networks)
