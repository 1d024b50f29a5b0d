"""This host's addresses as data: which it has, which of them count, and what the routing takes towards a destination.

Read from the kernel and kept up to date by `address_watch`; chosen from by `address_choice`. No input or output here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of this host. Source of the flags: IFA_F_*, include/uapi/linux/if_addr.h."""

    address: IPAddress
    prefixlen: int
    interface: str
    index: int
    """Index of the interface; stays when the interface is renamed."""
    scope: int
    """RT_SCOPE_*: 0 is global, 253 link, 254 host."""
    tentative: bool = False
    """Duplicate address detection is running (RFC 4862 §5.4) and the address may not be used yet."""
    dadfailed: bool = False
    """Another host has the address."""
    deprecated: bool = False
    """Its preferred lifetime is over: existing connections may go on, new ones should not begin."""
    temporary: bool = False
    """A privacy address (RFC 8981), soon to be replaced. IPv6 only: the same bit means `secondary` in IPv4."""
    permanent: bool = False
    """Without a lifetime: set by hand, not by DHCP or a router."""

    @property
    def usable(self) -> bool:
        """Whether packets may be sent from it."""
        return not self.tentative and not self.dadfailed


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface. Source: IFF_*, include/uapi/linux/if.h."""

    index: int
    name: str
    up: bool
    """Set up by the administrator."""
    running: bool
    """Up, and able to pass packets: with a carrier, where there can be one."""


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """What the routing does with packets to some destination."""

    source: IPAddress
    interface: str
    """Name of the outgoing interface."""


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """The host at one moment: addresses and links that count, per an `AddressSelection`."""

    addresses: frozenset[LocalAddress] = frozenset()
    links: frozenset[LinkState] = frozenset()
    routing: int = 0
    """Grows whenever routes or rules change, so that a snapshot differs when only the preferred source may."""
    uncounted: frozenset[IPAddress] = frozenset()
    """Addresses that packets may have as their source and that do not count: of ignored interfaces, for example."""

    def find(self, address: IPAddress) -> LocalAddress | None:
        """The best instance of an address; an address may stand on several interfaces."""
        found = [local for local in self.addresses if local.address == address]
        return min(
            found,
            key=lambda local: (not local.usable, not self.is_running(local.index), local.deprecated, local.index),
            default=None,
        )

    def link(self, index: int) -> LinkState | None:
        return next((link for link in self.links if link.index == index), None)

    def is_running(self, index: int) -> bool:
        link = self.link(index)
        return link is not None and link.running


CARRIER_INTERFACES = ("swanroam*",)
"""The carrier devices, which hold the addresses that are being given up."""
NEVER_INTERFACES = ("lo", *CARRIER_INTERFACES)


@dataclass(frozen=True, slots=True)
class AddressSelection:
    """Which interfaces and addresses count.

    Loopback interfaces, carrier devices, and loopback, link-local, multicast and unspecified addresses never do.
    """

    interfaces: tuple[str, ...] = ("*",)
    """Globs, as in fnmatch(3), of which one must match."""
    ignore_interfaces: tuple[str, ...] = ()
    """Globs of which none may match."""
    ignore: tuple[IPNetwork, ...] = ()
    """Prefixes in which the address may not lie."""

    def counts_interface(self, name: str) -> bool:
        return (
            matches(name, self.interfaces)
            and not matches(name, NEVER_INTERFACES)
            and not matches(name, self.ignore_interfaces)
        )

    def counts_address(self, address: IPAddress) -> bool:
        if not _leads_elsewhere(address):
            return False
        return not any(address.version == network.version and address in network for network in self.ignore)

    def counts(self, local: LocalAddress) -> bool:
        return self.counts_interface(local.interface) and self.counts_address(local.address)

    def passes_over(self, local: LocalAddress) -> bool:
        """It does not count, and yet packets to other hosts may have it as their source."""
        ours = matches(local.interface, CARRIER_INTERFACES)
        return _leads_elsewhere(local.address) and not ours and not self.counts(local)


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Whether an interface name matches any of the globs."""
    return any(fnmatchcase(name, glob) for glob in globs)


def place_of(name: str, globs: tuple[str, ...]) -> int:
    """Place of an interface in a list of globs, best first; one that is not named comes last."""
    return next((place for place, glob in enumerate(globs) if fnmatchcase(name, glob)), len(globs))


def _leads_elsewhere(address: IPAddress) -> bool:
    """Whether an address is one that packets to hosts in other networks can have."""
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)
