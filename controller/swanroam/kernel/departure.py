"""Where packets could go without one of this host's interfaces: for a host that is about to lose it.

The routing does not tell: its choice is the interface that is about to go. So each of the others is asked for alone.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from swanroam.kernel.addresses import AddressSelection, IPAddress, place_of

_RTM_F_FIB_MATCH: Final = 0x2000
"""Answer with the route itself. Without it IPv4 takes a destination without a route for a neighbour on the interface
that was asked for. Source: include/uapi/linux/rtnetlink.h; ip_route_output_key_hash_rcu() in net/ipv4/route.c."""

_NO_ROUTE: Final = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENETDOWN}
_RTN_UNICAST: Final = 1
_IFF_UP_AND_RUNNING: Final = 0x41


class DepartureError(Exception):
    """The kernel did not answer, or there is no such interface."""


@dataclass(frozen=True, slots=True)
class Way:
    """A route by another interface, and the address that packets on it have."""

    source: IPAddress
    interface: str
    metric: int
    """Of two the lower one is preferred (RTA_PRIORITY)."""


async def addresses_of(interface: str) -> frozenset[IPAddress]:
    """Addresses on an interface. Raises DepartureError when there is no such interface."""
    async with AsyncIPRoute() as ipr:
        indices = await ipr.link_lookup(ifname=interface)
        if not indices:
            raise DepartureError(f"there is no interface {interface!r}; `ip -brief link` lists them")
        found = [message async for message in await ipr.addr("dump", index=indices[0])]
    # On point-to-point links IFA_ADDRESS is the other end.
    return frozenset(ip_address(message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")) for message in found)


async def ways_without(
    interface: str, destination: IPAddress, selection: AddressSelection, prefer: tuple[str, ...] = ()
) -> list[Way]:
    """Ways to a destination by interfaces and addresses that count, the interface left out; best first.

    `prefer`: globs of interfaces, best first; among equals the metric decides. Raises DepartureError.
    """
    ways = []
    async with AsyncIPRoute() as ipr:
        links = [message async for message in await ipr.link("dump")]
        for link in links:
            name = link.get("IFLA_IFNAME")
            running = link["flags"] & _IFF_UP_AND_RUNNING == _IFF_UP_AND_RUNNING
            if name == interface or not running or not selection.counts_interface(name):
                continue
            route = await _route(ipr, destination, link["index"], _RTM_F_FIB_MATCH)
            packet = await _route(ipr, destination, link["index"], 0) if route is not None else None
            if route is None or packet is None:
                continue
            source = packet.get("RTA_PREFSRC")
            if source is not None and selection.counts_address(ip_address(source)):
                ways.append(Way(ip_address(source), name, route.get("RTA_PRIORITY") or 0))
    return sorted(ways, key=lambda way: (place_of(way.interface, prefer), way.metric, way.interface))


async def _route(ipr: Any, destination: IPAddress, index: int, flags: int) -> Any:
    """The kernel's answer for packets by one interface; None where it has no way."""
    try:
        answer = await ipr.route("get", dst=str(destination), oif=index, flags=flags)
    except NetlinkError as error:
        if error.code in _NO_ROUTE:
            return None
        raise DepartureError(f"the route to {destination} could not be looked up: {error}") from error
    return next((message for message in answer if message["type"] == _RTN_UNICAST), None)
