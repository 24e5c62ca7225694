"""Where a request came from: the peer's address, or what proxies that are trusted say of it."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

KNOWN_MAX = 10_000

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Headers(Protocol):
    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]: ...


class Remotes:
    """Addresses as PostgreSQL reads them. `trusted`: networks of proxies."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)
        self._known: dict[str, str | None] = {}

    def of(self, peer: str, headers: Headers) -> str | None:
        """The sender's address: the peer's, or the last one in X-Forwarded-For that is no trusted proxy's."""
        if peer not in self._known:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[peer] = _address(peer)
        remote = self._known[peer]
        if not self._trusted or not self._is_trusted(remote):
            return remote
        hops = ",".join(headers.getall("X-Forwarded-For", ()))
        for hop in reversed(hops.split(",") if hops else ()):
            remote = _address(hop.strip())
            if remote is None or not self._is_trusted(remote):
                break
        return remote

    def _is_trusted(self, remote: str | None) -> bool:
        # A peer without an address came over a Unix socket: only a proxy on this machine does.
        address = ipaddress.ip_address(remote) if remote else None
        return address is None or any(address in network for network in self._trusted)


def _address(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if address.scope_id is not None:
            return str(address).partition("%")[0]
    return str(address)
