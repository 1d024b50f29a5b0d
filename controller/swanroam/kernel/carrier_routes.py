"""The kernel objects that carriers consist of: held addresses, encapsulating routes, closing routes and rules.

Each is a value that can be compared with what is found, added and removed. Messages after rtnetlink(7),
include/uapi/linux/fib_rules.h and include/uapi/linux/lwtunnel.h.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, AddressFamily
from typing import Any, Final, Protocol

from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    rt_scope,
    rt_type,
)
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL, fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, IFA_F_NOPREFIXROUTE, ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import LWTUNNEL_ENCAP_IP, LWTUNNEL_ENCAP_IP6

from swanroam.kernel.rtnetlink import (
    ADD,
    PROTOCOL,
    REPLACE,
    IPAddress,
    RouteSocket,
    TunnelRouteMessage,
    family_of,
)

_FAMILIES: Final = (AF_INET, AF_INET6)
_LARGEST_U8_TABLE: Final = 255
_TABLE_IN_ATTRIBUTE: Final = 252  # RT_TABLE_COMPAT: the attribute has the number
_IPV6_METRIC: Final = 1024  # IP6_RT_PRIO_USER, what the kernel takes when none is given
EXACT_MARK: Final = 0xFFFFFFFF
_FIND_SADDR: Final = 0x00010000  # FIB_RULE_FIND_SADDR, include/uapi/linux/fib_rules.h


class Removable(Protocol):
    """Something that can be taken out of the kernel. Raises RouteSocketError; removing what is gone is no error."""

    async def remove(self, netlink: RouteSocket) -> None: ...


class KernelObject(Removable, Protocol):
    """Something of ours in the kernel. Both methods raise RouteSocketError."""

    async def add(self, netlink: RouteSocket) -> None: ...


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """A local address on the carrier device with this index."""

    address: IPAddress
    index: int

    def __str__(self) -> str:
        return f"address {self.address} on the carrier"

    async def add(self, netlink: RouteSocket) -> None:
        await netlink.execute(self._message(), RTM_NEWADDR, ADD, f"add {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELADDR, f"remove {self}")

    def _message(self) -> Any:
        ipv4 = self.address.version == 4
        message = ifaddrmsg()
        message["family"], message["prefixlen"] = family_of(self.address), self.address.max_prefixlen
        message["index"], message["scope"] = self.index, rt_scope["link" if ipv4 else "universe"]
        message["attrs"] = [
            ("IFA_LOCAL", str(self.address)),
            ("IFA_ADDRESS", str(self.address)),
            ("IFA_FLAGS", IFA_F_NOPREFIXROUTE | (0 if ipv4 else IFA_F_NODAD)),
        ]
        return message


@dataclass(frozen=True, slots=True)
class TunnelRoute:
    """Packets to `remote` that are looked up in `table` leave in IP-in-IP with these outer addresses."""

    table: int
    remote: IPAddress
    outer_local: IPAddress
    outer_remote: IPAddress
    index: int

    @property
    def key(self) -> tuple[int, IPAddress]:
        """The kernel has one route of ours for each."""
        return self.table, self.remote

    def __str__(self) -> str:
        return f"route {self.remote} in {self.outer_local} -> {self.outer_remote} (table {self.table})"

    async def add(self, netlink: RouteSocket) -> None:
        """Add the route, or put it in the place of the one with its key in one step."""
        await netlink.execute(self._message(), RTM_NEWROUTE, REPLACE, f"set {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELROUTE, f"remove {self}")

    def _message(self) -> Any:
        ipv4 = self.remote.version == 4
        message = route_message(family_of(self.remote), self.table, "unicast")
        message["dst_len"], message["scope"] = self.remote.max_prefixlen, rt_scope["link" if ipv4 else "universe"]
        name = "LWTUNNEL_IP" if ipv4 else "LWTUNNEL_IP6"
        message["attrs"] += [
            ("RTA_DST", str(self.remote)),
            ("RTA_OIF", self.index),
            ("RTA_ENCAP_TYPE", LWTUNNEL_ENCAP_IP if ipv4 else LWTUNNEL_ENCAP_IP6),
            (
                "RTA_ENCAP",
                {"attrs": [(f"{name}_DST", str(self.outer_remote)), (f"{name}_SRC", str(self.outer_local))]},
            ),
        ]
        return message


@dataclass(frozen=True, slots=True)
class ClosingRoute:
    """`unreachable default`: what a rule has sent to `table` ends there."""

    family: AddressFamily
    table: int

    def __str__(self) -> str:
        return f"closing route of table {self.table} for IPv{4 if self.family == AF_INET else 6}"

    async def add(self, netlink: RouteSocket) -> None:
        message = route_message(self.family, self.table, "unreachable")
        await netlink.execute(message, RTM_NEWROUTE, REPLACE, f"add {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        message = route_message(self.family, self.table, "unreachable")
        await netlink.remove(message, RTM_DELROUTE, f"remove {self}")


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets `local` -> `remote` (with this skb mark, unless it is 0) are looked up in `table`.

    `unsourced`: also packets that have no source address yet, when `local` is what the kernel chooses for them on the
    route found here (FIB_RULE_FIND_SADDR). IPv6 only: for IPv4 a rule with `local` 0.0.0.0 is for these packets. The
    kernel does not tell two rules apart by this, so such a rule needs a priority of its own.
    """

    local: IPAddress
    remote: IPAddress
    table: int
    priority: int
    mark: int = 0
    unsourced: bool = False

    @property
    def family(self) -> AddressFamily:
        return family_of(self.local)

    @property
    def for_carrier(self) -> bool:
        """It stands for a carrier itself, not for packets without a source."""
        return not (self.unsourced or self.local.is_unspecified)

    def __str__(self) -> str:
        mark = f" mark {self.mark:#x}" if self.mark else ""
        source = f"{self.local} or none yet" if self.unsourced else self.local
        return f"rule {self.priority}: from {source} to {self.remote}{mark} lookup {self.table}"

    async def add(self, netlink: RouteSocket) -> None:
        await netlink.execute(self._message(), RTM_NEWRULE, ADD, f"add {self}")

    async def remove(self, netlink: RouteSocket) -> None:
        await netlink.remove(self._message(), RTM_DELRULE, f"remove {self}")

    def _message(self) -> Any:
        message = rule_message(self.family, self.table, self.priority)
        message["src_len"] = message["dst_len"] = self.local.max_prefixlen
        message["flags"] = _FIND_SADDR if self.unsourced else 0
        message["attrs"] += [("FRA_SRC", str(self.local)), ("FRA_DST", str(self.remote))]
        if self.mark:
            message["attrs"] += [("FRA_FWMARK", self.mark), ("FRA_FWMASK", EXACT_MARK)]
        return message


def route_message(family: AddressFamily, table: int, kind: str) -> Any:
    """A route of ours without its destination (so far the default route); `kind` is "unicast", "unreachable", …"""
    message = TunnelRouteMessage()
    message["family"], message["proto"], message["type"] = family, PROTOCOL, rt_type[kind]
    message["table"] = table if table <= _LARGEST_U8_TABLE else _TABLE_IN_ATTRIBUTE
    message["scope"] = rt_scope["universe"]
    message["attrs"] = [("RTA_TABLE", table)]
    if family == AF_INET6:
        message["attrs"].append(("RTA_PRIORITY", _IPV6_METRIC))
    return message


def rule_message(family: AddressFamily, table: int, priority: int) -> Any:
    """A rule of ours without what it matches."""
    message = fibmsg()
    message["family"], message["action"] = family, FR_ACT_TO_TBL
    message["table"] = table if table <= _LARGEST_U8_TABLE else _TABLE_IN_ATTRIBUTE
    message["attrs"] = [("FRA_TABLE", table), ("FRA_PRIORITY", priority), ("FRA_PROTOCOL", PROTOCOL)]
    return message


async def find_addresses(netlink: RouteSocket, indexes: Collection[int]) -> set[HeldAddress]:
    """All addresses on the devices with these indexes. Raises RouteSocketError."""
    answers = await netlink.listing(ifaddrmsg(), RTM_GETADDR, "list addresses")
    return {
        HeldAddress(ip_address(found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS")), found["index"])
        for found in answers
        if found["index"] in indexes
    }


async def list_routes(netlink: RouteSocket, family: AddressFamily) -> list[Any]:
    """All routes of ours of this family, as messages. Raises RouteSocketError."""
    request = TunnelRouteMessage()
    request["family"] = family
    answers = await netlink.listing(request, RTM_GETROUTE, "list routes")
    return [found for found in answers if found["proto"] == PROTOCOL]


async def find_routes(netlink: RouteSocket) -> tuple[set[TunnelRoute], set[ClosingRoute]]:
    """The routes of all carriers, in whatever tables. Raises RouteSocketError."""
    routes: set[TunnelRoute] = set()
    closings: set[ClosingRoute] = set()
    for family in _FAMILIES:
        name = "LWTUNNEL_IP" if family == AF_INET else "LWTUNNEL_IP6"
        for found in await list_routes(netlink, family):
            encap = found.get_attr("RTA_ENCAP")
            table = found.get_attr("RTA_TABLE")
            if encap is not None:
                routes.add(
                    TunnelRoute(
                        table,
                        ip_address(found.get_attr("RTA_DST")),
                        ip_address(encap.get_attr(f"{name}_SRC")),
                        ip_address(encap.get_attr(f"{name}_DST")),
                        found.get_attr("RTA_OIF"),
                    )
                )
            elif found["dst_len"] == 0 and found["type"] == rt_type["unreachable"]:
                closings.add(ClosingRoute(family, table))
    return routes, closings


async def list_rules(netlink: RouteSocket, family: AddressFamily) -> list[Any]:
    """All rules of ours of this family, as messages. Raises RouteSocketError."""
    request = fibmsg()
    request["family"] = family
    answers = await netlink.listing(request, RTM_GETRULE, "list rules")
    return [found for found in answers if found.get_attr("FRA_PROTOCOL") == PROTOCOL]


async def find_rules(netlink: RouteSocket) -> set[Rule]:
    """The rules of all carriers. Raises RouteSocketError."""
    return {
        Rule(
            ip_address(source),
            ip_address(found.get_attr("FRA_DST")),
            found.get_attr("FRA_TABLE"),
            found.get_attr("FRA_PRIORITY") or 0,
            found.get_attr("FRA_FWMARK") or 0,
            bool(found["flags"] & _FIND_SADDR),
        )
        for family in _FAMILIES
        for found in await list_rules(netlink, family)
        if (source := found.get_attr("FRA_SRC")) is not None and found.get_attr("FRA_IIFNAME") is None
    }
