"""The rtnetlink socket of the carrier, with the two kinds of messages that pyroute2 does not know.

Routes with `encap ip` or `encap ip6` (lightweight tunnels) and `flower` filters are declared here as pyroute2
declares its own messages and are registered on the socket, so that dumps decode them as well.
Source: include/uapi/linux/lwtunnel.h, include/uapi/linux/pkt_cls.h, include/uapi/linux/pkt_sched.h.
"""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, AF_INET6, AddressFamily
from typing import Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, nla, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELROUTE,
    RTM_DELTFILTER,
    RTM_GETROUTE,
    RTM_GETTFILTER,
    RTM_NEWROUTE,
    RTM_NEWTFILTER,
    rt_type,
)
from pyroute2.netlink.rtnl.rtmsg import LWTUNNEL_ENCAP_IP, LWTUNNEL_ENCAP_IP6, rtmsg
from pyroute2.netlink.rtnl.tcmsg import cls_fw, cls_matchall, tcmsg
from pyroute2.netlink.rtnl.tcmsg.common_act import tca_act_prio

IPAddress = IPv4Address | IPv6Address

PROTOCOL: Final = 83
"""Routing protocol number of every route and rule that swanroam makes: 0x53, "S". Free in /etc/iproute2/rt_protos."""

ADD: Final = NLM_F_CREATE | NLM_F_EXCL
REPLACE: Final = NLM_F_CREATE | NLM_F_REPLACE
DELETE: Final = 0

_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV})
"""What the kernel answers when something to be deleted is not there (any more)."""

_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})
"""What the kernel answers for no route, or `unreachable`, `prohibit`, `blackhole`; fib_props[], fib_semantics.c."""

_NOT_ANOTHER_HOST: Final = frozenset(rt_type[name] for name in ("local", "broadcast", "anycast", "multicast"))
"""Types of routes to this host itself, or to all of a network."""


class RouteSocketError(Exception):
    """The kernel refused a change or a question about links, addresses, routes, rules or filters.

    Attributes: `errno` (positive, errno.h), `operation` ("add route 192.0.2.1/32 …"), `remedy` (may be empty),
    `reason` (the message without the remedy).
    """

    def __init__(self, number: int, operation: str, text: str = "", remedy: str = "") -> None:
        self.errno = number
        self.operation = operation
        self.remedy = remedy
        why = os.strerror(number) + (f": {text}" if text and text != os.strerror(number) else "")
        name = errno.errorcode.get(number, str(number))
        self.reason = f"cannot {operation}: {why} [{name}]"
        super().__init__(self.reason + (f"; {remedy}" if remedy else ""))


def family_of(address: IPAddress) -> AddressFamily:
    """AF_INET or AF_INET6."""
    return AF_INET if address.version == 4 else AF_INET6


@dataclass(frozen=True, slots=True)
class WayOut:
    """Where packets to another host leave, and how large they may be, in bytes."""

    interface: str
    interface_mtu: int
    mtu: int
    """Of the whole path, as far as that is known: no larger than the interface's."""


class TunnelRouteMessage(rtmsg):  # type: ignore[misc]  # pyroute2 has no type information
    """A route message whose RTA_ENCAP may be an IP tunnel (ip-route(8): encap ip, encap ip6)."""

    __slots__ = ()

    class ip_encap_info(nla):  # type: ignore[misc]  # noqa: N801 - pyroute2's naming
        """enum lwtunnel_ip_t."""

        __slots__ = ()
        prefix = "LWTUNNEL_"
        nla_map = (
            ("LWTUNNEL_IP_UNSPEC", "none"),
            ("LWTUNNEL_IP_ID", "be64"),
            ("LWTUNNEL_IP_DST", "ip4addr"),
            ("LWTUNNEL_IP_SRC", "ip4addr"),
            ("LWTUNNEL_IP_TTL", "uint8"),
            ("LWTUNNEL_IP_TOS", "uint8"),
            ("LWTUNNEL_IP_FLAGS", "be16"),
        )

    class ip6_encap_info(nla):  # type: ignore[misc]  # noqa: N801 - pyroute2's naming
        """enum lwtunnel_ip6_t."""

        __slots__ = ()
        prefix = "LWTUNNEL_"
        nla_map = (
            ("LWTUNNEL_IP6_UNSPEC", "none"),
            ("LWTUNNEL_IP6_ID", "be64"),
            ("LWTUNNEL_IP6_DST", "ip6addr"),
            ("LWTUNNEL_IP6_SRC", "ip6addr"),
            ("LWTUNNEL_IP6_HOPLIMIT", "uint8"),
            ("LWTUNNEL_IP6_TC", "uint8"),
            ("LWTUNNEL_IP6_FLAGS", "be16"),
        )

    encaps = {  # noqa: RUF012 - overrides pyroute2's class attribute
        **rtmsg.encaps,
        LWTUNNEL_ENCAP_IP: ip_encap_info,
        LWTUNNEL_ENCAP_IP6: ip6_encap_info,
    }


class FlowerOptions(nla):  # type: ignore[misc]  # pyroute2 has no type information
    """TCA_FLOWER_*: the attributes that the carrier's filters use; others of a foreign filter are not decoded."""

    __slots__ = ()
    prefix = "TCA_FLOWER_"
    nla_map = (
        (0, "TCA_FLOWER_UNSPEC", "none"),
        (3, "TCA_FLOWER_ACT", "tca_act_prio"),
        (8, "TCA_FLOWER_KEY_ETH_TYPE", "be16"),
        (9, "TCA_FLOWER_KEY_IP_PROTO", "uint8"),
        (10, "TCA_FLOWER_KEY_IPV4_SRC", "ip4addr"),
        (11, "TCA_FLOWER_KEY_IPV4_SRC_MASK", "ip4addr"),
        (12, "TCA_FLOWER_KEY_IPV4_DST", "ip4addr"),
        (13, "TCA_FLOWER_KEY_IPV4_DST_MASK", "ip4addr"),
        (14, "TCA_FLOWER_KEY_IPV6_SRC", "ip6addr"),
        (15, "TCA_FLOWER_KEY_IPV6_SRC_MASK", "ip6addr"),
        (16, "TCA_FLOWER_KEY_IPV6_DST", "ip6addr"),
        (17, "TCA_FLOWER_KEY_IPV6_DST_MASK", "ip6addr"),
        (21, "TCA_FLOWER_KEY_UDP_DST", "be16"),
        (22, "TCA_FLOWER_FLAGS", "uint32"),
        (27, "TCA_FLOWER_KEY_ENC_IPV4_SRC", "ip4addr"),
        (28, "TCA_FLOWER_KEY_ENC_IPV4_SRC_MASK", "ip4addr"),
        (29, "TCA_FLOWER_KEY_ENC_IPV4_DST", "ip4addr"),
        (30, "TCA_FLOWER_KEY_ENC_IPV4_DST_MASK", "ip4addr"),
        (31, "TCA_FLOWER_KEY_ENC_IPV6_SRC", "ip6addr"),
        (32, "TCA_FLOWER_KEY_ENC_IPV6_SRC_MASK", "ip6addr"),
        (33, "TCA_FLOWER_KEY_ENC_IPV6_DST", "ip6addr"),
        (34, "TCA_FLOWER_KEY_ENC_IPV6_DST_MASK", "ip6addr"),
        (38, "TCA_FLOWER_KEY_UDP_DST_MASK", "be16"),
    )
    tca_act_prio = tca_act_prio


class FilterMessage(nlmsg):  # type: ignore[misc]  # pyroute2 has no type information
    """struct tcmsg of a filter, whose TCA_OPTIONS may be flower's (tc-flower(8)), matchall's or fw's.

    Not derived from pyroute2's tcmsg: a message class resolves its attributes' types once, for subclasses as well.
    """

    __slots__ = ()
    prefix = "TCA_"
    fields = tcmsg.fields
    nla_map = (
        ("TCA_UNSPEC", "none"),
        ("TCA_KIND", "asciiz"),
        ("TCA_OPTIONS", "options"),
    )

    @staticmethod
    def options(self: Any, *args: Any, **kwargs: Any) -> Any:  # called so by pyroute2
        match self.get_attr("TCA_KIND"):
            case "flower":
                return FlowerOptions
            case "matchall":
                return cls_matchall.options
            case "fw":
                return cls_fw.options
            case _:
                return self.hex


class RouteSocket(AsyncIPRoute):  # type: ignore[misc]  # pyroute2 has no type information
    """AsyncIPRoute that knows IP-in-IP routes and flower filters. Use it with `async with`.

    After a receive buffer overrun (ENOBUFS) the socket must be replaced by a new one, see pyroute2's AsyncIPRSocket;
    do not use it for monitoring as well.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._dumping = asyncio.Lock()
        self.register_policy(
            dict.fromkeys((RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE), TunnelRouteMessage)
            | dict.fromkeys((RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER), FilterMessage)
        )

    async def execute(self, message: Any, kind: int, flags: int, operation: str) -> None:
        """Send one request and wait for its acknowledgment.

        `kind` is the RTM_* type, `operation` says what is tried, for the error's text.
        Raises RouteSocketError.
        """
        try:
            async for _ in await self.nlm_request(message, kind, NLM_F_REQUEST | NLM_F_ACK | flags):
                pass
        except NetlinkError as error:
            raise RouteSocketError(error.code, operation, _text(error)) from error
        except OSError as error:
            raise RouteSocketError(error.errno or errno.EIO, operation) from error

    async def remove(self, message: Any, kind: int, operation: str) -> bool:
        """Like `execute` for a deletion; what is already gone is no error. Returns whether it was there."""
        try:
            await self.execute(message, kind, DELETE, operation)
        except RouteSocketError as error:
            if error.errno not in _GONE:
                raise
            return False
        return True

    async def listing(self, message: Any, kind: int, operation: str) -> list[Any]:
        """All answers to a dump request. Raises RouteSocketError.

        A socket has one dump at a time; others wait. The kernel would refuse them with EBUSY (__netlink_dump_start() in
        net/netlink/af_netlink.c).
        """
        try:
            async with self._dumping:
                return [found async for found in await self.nlm_request(message, kind, NLM_F_REQUEST | NLM_F_DUMP)]
        except NetlinkError as error:
            raise RouteSocketError(error.code, operation, _text(error)) from error
        except OSError as error:
            raise RouteSocketError(error.errno or errno.EIO, operation) from error

    async def source_towards(self, remote: IPAddress) -> IPAddress | None:
        """The source address that packets to `remote` get when they have none; None: no route. Raises RouteSocketError.

        A rule for one source address plays no part in it.
        """
        found = await self._route_to(remote)
        source = None if found is None else found.get_attr("RTA_PREFSRC")
        return None if source is None else ip_address(source)

    async def path_to(self, remote: IPAddress, local: IPAddress) -> WayOut | None:
        """How packets from `local` to `remote` leave; None: no route. Raises RouteSocketError."""
        found = await self._route_to(remote, local)
        index = None if found is None else found.get_attr("RTA_OIF")
        if found is None or index is None:
            return None
        try:
            (link,) = [found async for found in await self.get_links(index)]
        except NetlinkError as error:
            raise RouteSocketError(error.code, f"look at interface {index}", _text(error)) from error
        metrics = found.get_attr("RTA_METRICS")
        learnt = None if metrics is None else metrics.get_attr("RTAX_MTU")
        device_mtu = int(link.get_attr("IFLA_MTU"))
        return WayOut(str(link.get_attr("IFLA_IFNAME")), device_mtu, min(device_mtu, learnt or device_mtu))

    async def is_own(self, address: IPAddress) -> bool:
        """Packets to it do not leave this host for one other: it is local, on whatever interface, or a broadcast.

        Raises RouteSocketError.
        """
        found = await self._route_to(address)
        return found is not None and found["type"] in _NOT_ANOTHER_HOST

    async def _route_to(self, remote: IPAddress, local: IPAddress | None = None) -> Any:
        """The answer to `ip route get` (`from` an address); None: no route. Raises RouteSocketError."""
        message = TunnelRouteMessage()
        message["family"], message["dst_len"] = family_of(remote), remote.max_prefixlen
        message["attrs"] = [("RTA_DST", str(remote))]
        if local is not None:
            message["src_len"] = local.max_prefixlen
            message["attrs"].append(("RTA_SRC", str(local)))
        try:
            answers = [found async for found in await self.nlm_request(message, RTM_GETROUTE, NLM_F_REQUEST)]
        except NetlinkError as error:
            if error.code in _NO_ROUTE:
                return None
            raise RouteSocketError(error.code, f"look up the route to {remote}", _text(error)) from error
        except OSError as error:
            raise RouteSocketError(error.errno or errno.EIO, f"look up the route to {remote}") from error
        return answers[0] if answers else None

    async def interface_index(self, name: str) -> int | None:
        """Index of the network device with this name, None when there is none. Raises RouteSocketError."""
        try:
            found = await self.link_lookup(ifname=name)
        except NetlinkError as error:
            raise RouteSocketError(error.code, f"look for device {name}", _text(error)) from error
        return int(found[0]) if found else None


def _text(error: NetlinkError) -> str:
    """The kernel's own explanation (NLMSGERR_ATTR_MSG), if it gave one."""
    return str(error.args[1]) if len(error.args) > 1 and error.args[1] else ""
