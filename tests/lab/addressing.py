"""Who has which address in the lab. Every network has IPv4 and IPv6; a scenario's family says which one it uses.

    net-a 10.1.1.0/24 2001:db8:a::/64    where mobile hosts begin
    net-b 10.2.2.0/24 2001:db8:b::/64    where they go
    net-c 10.4.4.0/24 2001:db8:c::/64
    net-d 10.3.3.0/24 2001:db8:d::/64    where correspondents begin
    net-e 10.5.5.0/24 2001:db8:e::/64    where those go that move as well

The router is .1 in each, the first host of a kind .2, the second .3, ….
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address

CONTROL_PREFIX = IPv6Network("fd53:7761:6e72::/48")


class Family(Enum):
    """Which addresses IPsec and traffic use."""

    IPV4 = 4
    IPV6 = 6

    @property
    def host_bits(self) -> int:
        """Prefix length of a single address."""
        return 32 if self is Family.IPV4 else 128


@dataclass(frozen=True, slots=True)
class Network:
    """One access network, behind one leg of the router."""

    name: str
    ipv4: IPv4Network
    ipv6: IPv6Network

    def address(self, family: Family, number: int) -> IPAddress:
        """The address with this number, e.g. 2 for 10.1.1.2."""
        return (self.ipv4 if family is Family.IPV4 else self.ipv6)[number]

    def prefix_length(self, family: Family) -> int:
        return (self.ipv4 if family is Family.IPV4 else self.ipv6).prefixlen

    def router(self, family: Family) -> IPAddress:
        return self.address(family, 1)


def _network(letter: str, ipv4: str) -> Network:
    return Network(f"net-{letter}", IPv4Network(ipv4), IPv6Network(f"2001:db8:{letter}::/64"))


NETWORKS = {
    network.name: network
    for network in (
        _network("a", "10.1.1.0/24"),
        _network("b", "10.2.2.0/24"),
        _network("c", "10.4.4.0/24"),
        _network("d", "10.3.3.0/24"),
        _network("e", "10.5.5.0/24"),
    )
}
MOBILE_NETWORKS = ("net-a", "net-b", "net-c")
CORRESPONDENT_NETWORKS = ("net-d", "net-e")


def inner_address(identity: str) -> IPv6Address:
    """A host's address on the control channel: the prefix and the first 80 bits of SHA-256 of its IKE identity.

    Computed here a second time on purpose: a test must not take it from what it tests.
    """
    digest = hashlib.sha256(identity.encode()).digest()
    return IPv6Address(int(CONTROL_PREFIX.network_address) | int.from_bytes(digest[:10], "big"))
