"""The policies that swanroam makes, as pure values. Apply them with `policies.apply_owned`.

Precedence, first asked first: bypasses, what is withheld, charon's policies, allowance of carried inner packets,
guards. A packet between guarded addresses that none of them lets pass is dropped and never leaves in clear.
Source: RFC 4301 section 4.4.1 (ordered SPD, default discard); __xfrm_policy_check and xfrm_lookup in
net/xfrm/xfrm_policy.c.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from swanroam.kernel.xfrm.codec import IPAddress, IPNetwork
from swanroam.kernel.xfrm.constants import (
    IPPROTO_ANY,
    IPPROTO_ICMPV6,
    IPPROTO_IPIP,
    IPPROTO_IPV6,
    Action,
    Direction,
    Family,
    Mode,
)
from swanroam.kernel.xfrm.lifetimes import Mark
from swanroam.kernel.xfrm.policies import OWNER
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.selectors import Selector

GUARD_PRIORITY: Final = 900_000
"""After charon's: its lowest precedence, two prefixes /0 with neither protocol nor port, has 400 000 at most
(get_priority in kernel_netlink_ipsec.c; 367 231 for two hosts)."""
UNCOUNTED_PRIORITY: Final = 890_000
"""After everything that protects, before the guards."""
CARRIED_PRIORITY: Final = 800_000
"""After charon's, before the guards."""
ELSEWHERE_PRIORITY: Final = 790_000
"""After charon's, before CARRIED_PRIORITY."""
KEPT_PRIORITY: Final = 810_000
"""After CARRIED_PRIORITY: what has its mark was protected by the outer packet's ESP."""
WITHHELD_PRIORITY: Final = 60
"""After the bypasses, before charon's."""
BYPASS_PRIORITY: Final = 50
"""Before charon's, whose host policies would otherwise demand ESP of the carrier's outer packet."""

NEIGHBOR_SOLICITATION: Final = 135
NEIGHBOR_ADVERTISEMENT: Final = 136

Endpoint = IPAddress | IPNetwork


def guard(
    source: Endpoint,
    destination: Endpoint,
    direction: Direction,
    *,
    protocol: int = IPPROTO_ANY,
    source_port: int | None = None,
    destination_port: int | None = None,
) -> Policy:
    """Drop what is not selected by a policy of higher precedence: "would leave in clear" becomes "does not leave".

    On output it does not see ESP that an SA has just made, and on input ESP passes unchecked before it is decrypted
    (net/ipv4/xfrm4_protocol.c, no_policy); charon's own socket passes by its socket policy. A carrier between the same
    two addresses needs a `bypass`.
    """
    selector = Selector.between(
        source,
        destination,
        protocol=protocol,
        source_port=source_port,
        destination_port=destination_port,
        user=OWNER,
    )
    return Policy(selector, direction, Action.BLOCK, GUARD_PRIORITY)


def withheld(guarding: Policy) -> Policy:
    """A guard that stops also what charon's policies would protect. It stands in the place of the guard it is made of.

    What charon's own socket sends passes, and so does ESP of a tunnel-mode SA, whose inner addresses are others.
    """
    return replace(guarding, priority=WITHHELD_PRIORITY)


def bypass(source: Endpoint, destination: Endpoint, protocol: int, direction: Direction) -> Policy:
    """Let the carrier's outer packets, protocol 4 or 41, pass without ESP.

    Safe only while all that the carrier carries is protected itself: never together with `carried_inner_out` or
    `carried_inner_in` for the same carrier. Raises ValueError for another protocol.
    """
    if protocol not in (IPPROTO_IPIP, IPPROTO_IPV6):
        raise ValueError(f"protocol {protocol} is not an IP-in-IP carrier (4 or 41)")
    selector = Selector.between(source, destination, protocol=protocol, user=OWNER)
    return Policy(selector, direction, Action.ALLOW, BYPASS_PRIORITY)


def neighbor_discovery(source: Endpoint, destination: Endpoint, direction: Direction) -> frozenset[Policy]:
    """Let IPv6 neighbor solicitations and advertisements between two guarded addresses pass.

    Needed as soon as two hosts may share a link: the advertisement that answers for the peer's address comes from that
    address, and a guard would stop it, and with it IKE. They are link-local messages about the link itself
    (RFC 4861 sections 4.3, 4.4: hop limit 255). For ICMPv6 the selector's source port is the type.
    Raises ValueError for IPv4 addresses.
    """
    if source.version != 6:
        raise ValueError(f"{source} does not take part in IPv6 neighbor discovery")
    return frozenset(
        Policy(
            Selector.between(source, destination, protocol=IPPROTO_ICMPV6, source_port=kind, user=OWNER),
            direction,
            Action.ALLOW,
            BYPASS_PRIORITY,
        )
        for kind in (NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT)
    )


def carried_inner_out(source: Endpoint, destination: Endpoint, carrier_ifindex: int) -> Policy:
    """Let inner packets enter the carrier unprotected, because its outer packet is protected (method migrate).

    For IPv4 the device is part of the selector: by any other device the guard stops them. For IPv6 it cannot be,
    because the kernel compares it with the device that the socket is bound to and not with the route's (ip6_output has
    no counterpart of fl4->flowi4_oif being set by the lookup). So for IPv6 the caller needs three things besides: a
    rule for these packets that ends in an unreachable route, so that without the carrier they have no other way; a
    `carried_inner_elsewhere` for every other device; and that the routing does not choose the source address for
    packets that have none yet. Raises ValueError without a device.
    """
    if carrier_ifindex <= 0:
        raise ValueError(f"{carrier_ifindex} is not the index of a device")
    ifindex = carrier_ifindex if source.version == 4 else 0
    selector = Selector.between(source, destination, ifindex=ifindex, user=OWNER)
    return Policy(selector, Direction.OUT, Action.ALLOW, CARRIED_PRIORITY)


def carried_inner_elsewhere(source: Endpoint, destination: Endpoint, ifindex: int) -> Policy:
    """Drop what `carried_inner_out` would let out of a socket that is bound to another device (SO_BINDTODEVICE).

    Such a socket's packets find no route in the carrier's table, closed as it is: the routes there are of other
    devices, so IPv6 goes on to the next rule. Raises ValueError without a device.
    """
    if ifindex <= 0:
        raise ValueError(f"{ifindex} is not the index of a device")
    selector = Selector.between(source, destination, ifindex=ifindex, user=OWNER)
    return Policy(selector, Direction.OUT, Action.BLOCK, ELSEWHERE_PRIORITY)


def carried_inner_in(source: Endpoint, destination: Endpoint, mark: Mark) -> Policy:
    """Accept inner packets that bear the mark set on the carrier's ingress (method migrate).

    A selector with the device would not match: on input the kernel compares it with the local route's device, `lo`.
    Raises ValueError without a mark.
    """
    if not mark.mask:
        raise ValueError("a mark without mask would accept every packet between the two addresses in clear")
    selector = Selector.between(source, destination, user=OWNER)
    return Policy(selector, Direction.IN, Action.ALLOW, CARRIED_PRIORITY, mark=mark)


def kept_inbound(source: Endpoint, destination: Endpoint) -> Policy:
    """Accept ESP in transport mode from whatever SA was kept for addresses that charon has left (method migrate).

    What is not protected is dropped as by the guard with the same selector, in whose place the policy stands.
    """
    selector = Selector.between(source, destination, user=OWNER)
    anywhere = IPv4Address(0) if selector.family == Family.INET else IPv6Address(0)  # as it is read back
    template = Template(0, Mode.TRANSPORT, saddr=anywhere, daddr=anywhere, family=selector.family)
    return Policy(selector, Direction.IN, Action.ALLOW, KEPT_PRIORITY, templates=(template,))


def uncounted(source: IPAddress, destination: IPAddress) -> Policy:
    """Let pass what an address sends that is no business of ours, though a guard for every source is in its way."""
    return Policy(Selector.between(source, destination, user=OWNER), Direction.OUT, Action.ALLOW, UNCOUNTED_PRIORITY)


def prefix_guard(prefix: IPNetwork) -> frozenset[Policy]:
    """Guards for a whole prefix: nothing to or from it is sent, accepted or forwarded without IPsec.

    For the prefix of the inner control addresses. A host's packets to its own address in the prefix are stopped too
    where that is IPv6: the kernel exempts `lo` from policies for IPv4 only (net.ipv4.conf.lo.disable_xfrm).
    """
    anywhere = everywhere(prefix.version)
    return frozenset(
        guard(source, destination, direction)
        for direction in (Direction.IN, Direction.OUT, Direction.FWD)
        for source, destination in ((anywhere, prefix), (prefix, anywhere))
    )


def everywhere(version: int) -> IPNetwork:
    """All addresses of an IP version."""
    return IPv4Network("0.0.0.0/0") if version == 4 else IPv6Network("::/0")
