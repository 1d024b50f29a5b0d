"""Who may move what, to where.

IKE has proven who the sender is; this module decides what that identity may claim. RFC 4555 §5.1-5.2 (the addresses
of an update must be authorised), RFC 6275 §15.1, RFC 4225 §3.1 (address stealing).

That an identity has an IKE_SA with an address makes old connections there its own, and lets it register there for the
first time: charon's configuration decides from where it may connect. It is no permission to move there.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from swanroam.protocol.binding import Binding
from swanroam.protocol.messages import AddressChange, IPAddress, Verdict

IPNetwork = IPv4Network | IPv6Network


class Ground(enum.Enum):
    """On what an address change is refused. The values stand in the log, and as counters in `status`."""

    STALE = "stale"  # one with a higher sequence was accepted before
    RATE_LIMITED = "rate_limited"  # too many of them
    TOO_MANY = "too_many_addresses"  # too many addresses of the sender are in use here
    NOT_OWNED = "not_owned"  # a deprecated address is not the sender's
    FAMILY = "family"  # from IPv4 to IPv6, or back
    CONTRADICTION = "contradiction"  # one address is current and deprecated at once
    NO_HOST = "no_host_address"  # loopback, multicast and others that no host can have
    LINK_LOCAL = "link_local"  # and not configured
    CONTROL_PREFIX = "control_prefix"  # where inner addresses are
    MAY_NOT_MOVE = "may_not_move"  # `moves`
    OUTSIDE = "outside_allow"  # `allow`
    OURS = "ours"  # this host's own address
    ANOTHER_PEERS = "another_peers"  # another peer's address


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration allows one identity."""

    may_move: bool
    allowed: tuple[IPNetwork, ...]
    """Prefixes that it may move to. Empty: any unicast address. Link-local ones only if they are named themselves."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon knows of addresses besides this peer's."""

    own: frozenset[IPAddress] = frozenset()
    """Addresses of this host."""
    others: frozenset[IPAddress] = frozenset()
    """Addresses that belong to other peers: registered, or with an IKE_SA."""
    registered: frozenset[IPAddress] = frozenset()
    """Those of them that are registered."""
    control: IPv6Network | None = None
    """Where inner addresses are."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address change is not honoured: for the peer, for the counters, for people."""

    verdict: Verdict
    ground: Ground
    reason: str


def authorise(
    change: AddressChange,
    policy: Policy,
    surroundings: Surroundings,
    binding: Binding | None,
    associated: Collection[IPAddress],
) -> Refusal | None:
    """None when the change may be carried out.

    `binding` is the sender's present one; `associated` are the addresses with which charon has an IKE_SA of its.
    """
    owned = {*(binding.addresses if binding is not None else ()), *associated}
    for address in change.deprecated:
        if address not in owned:
            reason = f"{address} is not an address of yours: no SA and no binding has it"
            return Refusal(Verdict.NOT_OWNED, Ground.NOT_OWNED, reason)
    families = {address.version for address in (change.current, *change.deprecated)}
    known = {address.version for address in owned}
    if len(families) > 1 or (known and not families <= known):
        return Refusal(Verdict.NOT_ALLOWED, Ground.FAMILY, "a move between IPv4 and IPv6 is not supported")
    if change.current in change.deprecated:
        reason = f"{change.current} is named both current and deprecated"
        return Refusal(Verdict.NOT_ALLOWED, Ground.CONTRADICTION, reason)
    if binding is not None and change.current == binding.current:
        return None
    registers = binding is None and not change.deprecated and change.current in associated
    return (
        _unsuitable(change.current, policy, surroundings)
        or (None if registers else _not_permitted(change.current, policy))
        or _taken(change.current, surroundings.own, surroundings.registered if registers else surroundings.others)
    )


def habitable(address: IPAddress, policy: Policy, surroundings: Surroundings) -> bool:
    """The peer can be there, as far as anybody here knows; whether it may move there is asked when it says so."""
    return not (_unsuitable(address, policy, surroundings) or _taken(address, surroundings.own, surroundings.others))


def _unsuitable(address: IPAddress, policy: Policy, surroundings: Surroundings) -> Refusal | None:
    if problem := unusable(address):
        return Refusal(Verdict.NOT_ALLOWED, Ground.NO_HOST, f"{address} is {problem}")
    if surroundings.control is not None and address in surroundings.control:
        return Refusal(Verdict.NOT_ALLOWED, Ground.CONTROL_PREFIX, f"{address} is in the prefix of inner addresses")
    if address.is_link_local and not any(network.is_link_local and address in network for network in policy.allowed):
        return Refusal(Verdict.NOT_ALLOWED, Ground.LINK_LOCAL, f"{address} is a link-local address")
    return None


def _not_permitted(address: IPAddress, policy: Policy) -> Refusal | None:
    if not policy.may_move:
        reason = "the configuration here lets only this side move"
        return Refusal(Verdict.NOT_ALLOWED, Ground.MAY_NOT_MOVE, reason)
    if policy.allowed and not any(address in network for network in policy.allowed):
        return Refusal(Verdict.NOT_ALLOWED, Ground.OUTSIDE, f"{address} is outside the prefixes allowed for you")
    return None


def _taken(address: IPAddress, own: Collection[IPAddress], others: Collection[IPAddress]) -> Refusal | None:
    if address in own:
        return Refusal(Verdict.IN_USE, Ground.OURS, f"{address} is an address of this host")
    if address in others:
        return Refusal(Verdict.IN_USE, Ground.ANOTHER_PEERS, f"{address} belongs to another peer")
    return None


def unusable(address: IPAddress) -> str | None:
    """Why no host can be reached at this address from elsewhere, or None. RFC 6890."""
    kinds = (
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.is_multicast, "a multicast address"),
        (address.version == 4 and (address.is_reserved or int(address) >> 24 == 0), "a reserved address"),
        (address.version == 6 and getattr(address, "ipv4_mapped", None) is not None, "an IPv4-mapped address"),
    )
    return next((name for holds, name in kinds if holds), None)
