"""Inner addresses: the ends of the control channel, and the way to the peers' ones that never is a way in clear.

The own inner address is a /128 on `lo`. It is deprecated (preferred lifetime 0), so the kernel prefers every other
global address as source of what is neither bound to it nor routed to an inner address (RFC 6724 §5 rule 3).

A packet to a peer's inner address has to find a route, because only then the kernel asks the security policies, and the
control CHILD_SA (tunnel mode) takes it. Where there is no policy and no SA, that route is where the packet goes; so
it leads to a carrier device, which drops every packet that comes without the outer addresses of a carrier's route
(ipip_tunnel_xmit and ip6_tnl_start_xmit, collect_md). A reject route, and in IPv6 every route through `lo` is one,
would not do: the kernel gives up before it asks the policies. All other inner addresses are unreachable.

These routes stand in the carrier's table, and a rule for the prefix leads there before charon's table 220. There
charon with `install_routes = yes` may add a route to the peer's inner address through the outer interface; without the
rule, a control datagram could leave in clear through it when the policies have gone and the route has not. With the
rule it makes no difference. (5.9.8 adds none as long as the own inner address is deprecated.)

Found again by: protocol number 83 on address (IFA_PROTO), routes and rule.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from socket import AF_INET6
from typing import Any, Final

from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    rt_type,
)
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, IFA_F_NOPREFIXROUTE, ifaddrmsg

from swanroam.kernel.carrier import CarrierSettings, Changes
from swanroam.kernel.carrier_devices import find_devices
from swanroam.kernel.carrier_routes import KernelObject, list_routes, list_rules, route_message, rule_message
from swanroam.kernel.rtnetlink import ADD, PROTOCOL, REPLACE, RouteSocket, RouteSocketError

_LOOPBACK_INDEX: Final = 1  # LOOPBACK_IFINDEX, in every network namespace
_FOREVER: Final = 0xFFFFFFFF  # INFINITY_LIFE_TIME


@dataclass(frozen=True, slots=True)
class FoundInner:
    """Our inner addresses and routes in this namespace, of an earlier run as well."""

    own: frozenset[IPv6Address]
    peers: frozenset[IPv6Address]
    prefixes: frozenset[IPv6Network]


@dataclass(frozen=True, slots=True)
class _OwnAddress:
    address: IPv6Address

    def __str__(self) -> str:
        return f"inner address {self.address}"

    async def add(self, netlink: RouteSocket) -> None:
        await netlink.execute(self._message(), RTM_NEWADDR, REPLACE, f"add {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELADDR, f"remove {self}")

    def _message(self) -> Any:
        message = ifaddrmsg()
        message["family"], message["prefixlen"], message["index"] = AF_INET6, 128, _LOOPBACK_INDEX
        message["attrs"] = [
            ("IFA_LOCAL", str(self.address)),
            ("IFA_ADDRESS", str(self.address)),
            ("IFA_FLAGS", IFA_F_NODAD | IFA_F_NOPREFIXROUTE),
            ("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": _FOREVER}),
            ("IFA_PROTO", PROTOCOL),
        ]
        return message


@dataclass(frozen=True, slots=True)
class _PeerRoute:
    """To a peer's inner address, through a device that swallows what no security policy has taken."""

    table: int
    peer: IPv6Address
    own: IPv6Address
    index: int

    @property
    def key(self) -> tuple[int, IPv6Address]:
        return self.table, self.peer

    def __str__(self) -> str:
        return f"inner route {self.peer} from {self.own} (table {self.table})"

    async def add(self, netlink: RouteSocket) -> None:
        await netlink.execute(self._message(), RTM_NEWROUTE, REPLACE, f"set {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELROUTE, f"remove {self}")

    def _message(self) -> Any:
        message = route_message(AF_INET6, self.table, "unicast")
        message["dst_len"] = 128
        message["attrs"] += [
            ("RTA_DST", str(self.peer)),
            ("RTA_OIF", self.index),
            ("RTA_PREFSRC", str(self.own)),
        ]
        return message


@dataclass(frozen=True, slots=True)
class _UnreachablePrefix:
    table: int
    prefix: IPv6Network

    def __str__(self) -> str:
        return f"unreachable route {self.prefix} (table {self.table})"

    async def add(self, netlink: RouteSocket) -> None:
        await netlink.execute(self._message(), RTM_NEWROUTE, REPLACE, f"add {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELROUTE, f"remove {self}")

    def _message(self) -> Any:
        message = route_message(AF_INET6, self.table, "unreachable")
        message["dst_len"] = self.prefix.prefixlen
        message["attrs"].append(("RTA_DST", str(self.prefix.network_address)))
        return message


@dataclass(frozen=True, slots=True)
class _PrefixRule:
    table: int
    prefix: IPv6Network
    priority: int

    def __str__(self) -> str:
        return f"rule {self.priority}: to {self.prefix} lookup {self.table}"

    async def add(self, netlink: RouteSocket) -> None:
        await netlink.execute(self._message(), RTM_NEWRULE, ADD, f"add {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELRULE, f"remove {self}")

    def _message(self) -> Any:
        message = rule_message(AF_INET6, self.table, self.priority)
        message["dst_len"] = self.prefix.prefixlen
        message["attrs"].append(("FRA_DST", str(self.prefix.network_address)))
        return message


@dataclass(frozen=True, slots=True)
class _Found:
    addresses: frozenset[_OwnAddress]
    routes: frozenset[_PeerRoute]
    prefixes: frozenset[_UnreachablePrefix]
    rules: frozenset[_PrefixRule]


class InnerPlane:
    """Inner addresses of this network namespace. One call at a time; every call may be repeated after an error."""

    def __init__(self, netlink: RouteSocket, settings: CarrierSettings | None = None) -> None:
        self._netlink = netlink
        self._settings = settings or CarrierSettings()

    async def apply(self, prefix: IPv6Network, own: IPv6Address, peers: Collection[IPv6Address]) -> Changes:
        """Make exactly this the state of the kernel. A carrier device must be there, see `CarrierPlane.arm`.

        Raises ValueError for an address outside the prefix, RouteSocketError when the kernel refuses.
        """
        for address in (own, *peers):
            if address not in prefix:
                raise ValueError(f"inner address {address} is not in the prefix {prefix}")
        if own in peers:
            raise ValueError(f"inner address {own} is the own one and a peer's: their IKE identities must differ")
        index = await self._swallowing_device()
        table = self._settings.table
        addresses = {_OwnAddress(own)}
        routes = {_PeerRoute(table, peer, own, index) for peer in peers}
        prefixes = {_UnreachablePrefix(table, prefix)}
        rules = {_PrefixRule(table, prefix, self._settings.rule_priority)}

        found = await self._find()
        missing: list[KernelObject] = [
            *(prefixes - found.prefixes),
            *(rules - found.rules),
            *(addresses - found.addresses),
            *sorted(routes - found.routes, key=str),
        ]
        for wanted in missing:
            await wanted.add(self._netlink)
        replaced = {route.key for route in routes}
        superfluous: list[KernelObject] = [
            *sorted((route for route in found.routes - routes if route.key not in replaced), key=str),
            *(found.addresses - addresses),
            *(found.rules - rules),
            *(found.prefixes - prefixes),
        ]
        for surplus in superfluous:
            await surplus.remove(self._netlink)
        return Changes(tuple(map(str, missing)), tuple(map(str, superfluous)))

    async def find(self) -> FoundInner:
        """What is there, whoever's settings made it. Raises RouteSocketError."""
        found = await self._find()
        return FoundInner(
            frozenset(item.address for item in found.addresses),
            frozenset(item.peer for item in found.routes),
            frozenset(item.prefix for item in found.rules) | frozenset(item.prefix for item in found.prefixes),
        )

    async def clear(self) -> Changes:
        """Remove everything of ours: first what can send, last what keeps it from leaving. Raises RouteSocketError."""
        found = await self._find()
        everything: list[KernelObject] = [*found.routes, *found.addresses, *found.rules, *found.prefixes]
        for item in everything:
            await item.remove(self._netlink)
        return Changes(removed=tuple(map(str, everything)))

    async def _swallowing_device(self) -> int:
        devices = await find_devices(self._netlink)
        if not devices:
            raise RouteSocketError(
                errno.ENODEV, "route inner addresses", remedy="no carrier device is there: arm the carrier first"
            )
        return (devices.get(AF_INET6) or next(iter(devices.values()))).index

    async def _find(self) -> _Found:
        addresses = await self._netlink.listing(ifaddrmsg(), RTM_GETADDR, "list addresses")
        own = {
            _OwnAddress(IPv6Address(found.get_attr("IFA_ADDRESS")))
            for found in addresses
            if found["index"] == _LOOPBACK_INDEX and found.get_attr("IFA_PROTO") == PROTOCOL
        }
        routes: set[_PeerRoute] = set()
        prefixes: set[_UnreachablePrefix] = set()
        for found in await list_routes(self._netlink, AF_INET6):
            destination, table = found.get_attr("RTA_DST"), found.get_attr("RTA_TABLE")
            if destination is None or found.get_attr("RTA_ENCAP") is not None or found["type"] == rt_type["local"]:
                continue  # the carrier's
            if found["type"] == rt_type["unreachable"]:
                network = IPv6Network((destination, found["dst_len"]))
                prefixes.add(_UnreachablePrefix(table, network))
            else:
                source = IPv6Address(found.get_attr("RTA_PREFSRC") or 0)
                routes.add(_PeerRoute(table, IPv6Address(destination), source, found.get_attr("RTA_OIF")))
        rules = {
            _PrefixRule(
                found.get_attr("FRA_TABLE"),
                IPv6Network((found.get_attr("FRA_DST"), found["dst_len"])),
                found.get_attr("FRA_PRIORITY") or 0,
            )
            for found in await list_rules(self._netlink, AF_INET6)
            if found.get_attr("FRA_SRC") is None and found.get_attr("FRA_DST") is not None
        }
        return _Found(frozenset(own), frozenset(routes), frozenset(prefixes), frozenset(rules))
