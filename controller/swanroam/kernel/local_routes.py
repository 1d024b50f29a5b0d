"""For whom a held address is local: for every packet, or for what the carrier brings alone.

The kernel makes a route of type local for every address of a device. That of a held address is removed, and one of our
own takes its place: in the local table, where everybody's packets find it, or in a table of our own behind rules. With
the latter the address is *narrowed*: still an address of this host (so sockets keep it as their source, and charon sees
it, __ip_dev_find in net/ipv4/devinet.c, ipv6_chk_addr), but packets to it that do not come out of the carrier go where
the routing sends those to any other host, ARP is not answered for it (arp_process in net/ipv4/arp.c asks for the route
of an incoming packet, and inet_addr_type for a probe), and nobody can bind to it any more. IPv6 neighbor discovery
speaks for the addresses of its own device only (ndisc_recv_ns in net/ipv6/ndisc.c), held ones are never among them.

Found again by: protocol number 83 on our routes and rules; the kernel's own by device and address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any, Final

from pyroute2.netlink import NLM_F_APPEND, NLM_F_CREATE
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_DELRULE, RTM_GETROUTE, RTM_NEWROUTE, RTM_NEWRULE, rt_scope, rt_type

from swanroam.kernel.carrier_routes import HeldAddress, list_routes, list_rules, route_message, rule_message
from swanroam.kernel.rtnetlink import ADD, IPAddress, RouteSocket, TunnelRouteMessage, family_of

LOCAL_TABLE: Final = 255  # RT_TABLE_LOCAL
LOOPBACK: Final = "lo"
_KERNEL: Final = 2  # RTPROT_KERNEL
_APPEND: Final = NLM_F_CREATE | NLM_F_APPEND
"""The local table may have routes to the same address by other devices; they stay."""
_FAMILIES: Final = (AF_INET, AF_INET6)
_TRIES: Final = 25
_PAUSE: Final = 0.01  # seconds


@dataclass(frozen=True, slots=True)
class LocalRoute:
    """What `table` is asked about and goes to `address` is for this host. `index`: the carrier device's."""

    address: IPAddress
    table: int
    index: int

    def __str__(self) -> str:
        return f"local route {self.address} (table {self.table})"

    async def add(self, netlink: RouteSocket) -> None:
        await netlink.execute(self._message(), RTM_NEWROUTE, _APPEND, f"add {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELROUTE, f"remove {self}")

    def _message(self) -> Any:
        message = route_message(family_of(self.address), self.table, "local")
        _complete(message, self.address, self.index)
        return message


@dataclass(frozen=True, slots=True)
class AutomaticRoute:
    """The local route that the kernel made for a held address. It can only be removed."""

    address: IPAddress
    index: int

    def __str__(self) -> str:
        return f"the kernel's own local route {self.address} on the carrier"

    async def remove(self, netlink: RouteSocket) -> None:
        """Waits for it if need be: IPv6 makes it from a work queue, perhaps only some time after the address is there
        (addrconf_dad_work() in net/ipv6/addrconf.c). Raises RouteSocketError.
        """
        message = TunnelRouteMessage()
        message["family"], message["proto"], message["type"] = family_of(self.address), _KERNEL, rt_type["local"]
        message["table"], message["attrs"] = LOCAL_TABLE, [("RTA_TABLE", LOCAL_TABLE)]
        _complete(message, self.address, self.index)
        removed = await netlink.remove(message, RTM_DELROUTE, f"remove {self}")
        tries = _TRIES if self.address.version == 6 else 0
        while not removed and tries:
            tries -= 1
            await asyncio.sleep(_PAUSE)
            removed = await netlink.remove(message, RTM_DELROUTE, f"remove {self}")


@dataclass(frozen=True, slots=True)
class ArrivalRule:
    """Packets `remote` -> `local` that come by the device `interface` are looked up in `table`.

    With `LOOPBACK` those that this host sends itself.
    """

    remote: IPAddress
    local: IPAddress
    interface: str
    table: int
    priority: int

    def __str__(self) -> str:
        where = f"from {self.remote} to {self.local} iif {self.interface}"
        return f"rule {self.priority}: {where} lookup {self.table}"

    async def add(self, netlink: RouteSocket) -> None:
        await netlink.execute(self._message(), RTM_NEWRULE, ADD, f"add {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELRULE, f"remove {self}")

    def _message(self) -> Any:
        message = rule_message(family_of(self.local), self.table, self.priority)
        message["src_len"] = message["dst_len"] = self.local.max_prefixlen
        message["attrs"] += [
            ("FRA_SRC", str(self.remote)),
            ("FRA_DST", str(self.local)),
            ("FRA_IIFNAME", self.interface),
        ]
        return message


def _complete(message: Any, address: IPAddress, index: int) -> None:
    message["dst_len"], message["scope"] = (
        address.max_prefixlen,
        rt_scope["host" if address.version == 4 else "universe"],
    )
    message["attrs"] += [("RTA_DST", str(address)), ("RTA_OIF", index)]


async def find_local_routes(netlink: RouteSocket) -> set[LocalRoute]:
    """Those of ours, in whatever tables. Raises RouteSocketError."""
    return {
        LocalRoute(ip_address(found.get_attr("RTA_DST")), found.get_attr("RTA_TABLE"), found.get_attr("RTA_OIF"))
        for family in _FAMILIES
        for found in await list_routes(netlink, family)
        if found["type"] == rt_type["local"]
    }


async def find_automatic_routes(netlink: RouteSocket, held: Collection[HeldAddress]) -> set[AutomaticRoute]:
    """The kernel's own for these addresses. Raises RouteSocketError."""
    places = {(item.address, item.index) for item in held}
    found: set[AutomaticRoute] = set()
    for family in _FAMILIES if places else ():
        request = TunnelRouteMessage()
        request["family"] = family
        for route in await netlink.listing(request, RTM_GETROUTE, "list routes"):
            if route["type"] != rt_type["local"] or route["proto"] != _KERNEL or not route.get_attr("RTA_DST"):
                continue
            place = ip_address(route.get_attr("RTA_DST")), route.get_attr("RTA_OIF")
            if place in places:
                found.add(AutomaticRoute(*place))
    return found


async def find_arrival_rules(netlink: RouteSocket) -> set[ArrivalRule]:
    """Those of ours. Raises RouteSocketError."""
    return {
        ArrivalRule(
            ip_address(found.get_attr("FRA_SRC")),
            ip_address(found.get_attr("FRA_DST")),
            interface,
            found.get_attr("FRA_TABLE"),
            found.get_attr("FRA_PRIORITY") or 0,
        )
        for family in _FAMILIES
        for found in await list_rules(netlink, family)
        if (interface := found.get_attr("FRA_IIFNAME")) is not None
    }
