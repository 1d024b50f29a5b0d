"""Who may move what, to where.

IKE has proven who the sender is; this module decides what that identity may claim. RFC 4555 §5.1-5.2 (the addresses
of an update must be authorised), RFC 6275 §15.1, RFC 4225 §3.1 (address stealing).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from swanroam.protocol.messages import AddressChange, IPAddress, Verdict

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration allows one identity."""

    may_move: bool
    allowed: tuple[IPNetwork, ...]
    """Prefixes that it may move to. Empty: any unicast address."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon knows of addresses besides this peer's."""

    own: frozenset[IPAddress] = frozenset()
    """Addresses of this host."""
    others: frozenset[IPAddress] = frozenset()
    """Addresses that belong to other peers."""

    @property
    def taken(self) -> frozenset[IPAddress]:
        """Addresses that can't be the peer's."""
        return self.own | self.others


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address change is not honoured."""

    verdict: Verdict
    reason: str


def authorise(
    change: AddressChange,
    policy: Policy,
    surroundings: Surroundings,
    owned: Collection[IPAddress],
) -> Refusal | None:
    """None when the change may be carried out. `owned`: addresses that the identity is known to have."""
    for address in change.deprecated:
        if address not in owned:
            return Refusal(Verdict.NOT_OWNED, f"{address} is not an address of yours: no SA and no binding has it")
    families = {address.version for address in (change.current, *change.deprecated)}
    known = {address.version for address in owned}
    if len(families) > 1 or (known and not families <= known):
        return Refusal(Verdict.NOT_ALLOWED, "a move between IPv4 and IPv6 is not supported")
    if change.current in change.deprecated:
        return Refusal(Verdict.NOT_ALLOWED, f"{change.current} is named both current and deprecated")
    if change.current in owned:
        return None
    if not policy.may_move:
        return Refusal(Verdict.NOT_ALLOWED, "the configuration here lets only this side move")
    if problem := unusable(change.current):
        return Refusal(Verdict.NOT_ALLOWED, f"{change.current} is {problem}")
    if policy.allowed and not any(change.current in network for network in policy.allowed):
        return Refusal(Verdict.NOT_ALLOWED, f"{change.current} is outside the prefixes allowed for you")
    if change.current in surroundings.own:
        return Refusal(Verdict.IN_USE, f"{change.current} is an address of this host")
    if change.current in surroundings.others:
        return Refusal(Verdict.IN_USE, f"{change.current} belongs to another peer")
    return None


def unusable(address: IPAddress) -> str | None:
    """Why no host can be reached at this address from elsewhere, or None. RFC 6890."""
    kinds = (
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.is_multicast, "a multicast address"),
        (address.is_link_local, "a link-local address"),
        (address.version == 4 and (address.is_reserved or int(address) >> 24 == 0), "a reserved address"),
        (address.version == 6 and getattr(address, "ipv4_mapped", None) is not None, "an IPv4-mapped address"),
    )
    return next((name for holds, name in kinds if holds), None)
