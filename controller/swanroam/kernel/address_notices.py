"""What rtnetlink's notifications are about, as far as a host's addresses and routing are concerned.

Only the headers are read. Decoding whole messages would take a core on a busy router.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Flag, auto
from typing import Any

from pyroute2.netlink import NLMSG_ERROR, rtnl
from pyroute2.netlink.marshal import Marshal

OWN_PROTOCOL = 83
"""rtm_protocol of routes that swanroam itself installs; changes of these are not news."""

GROUPS = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV6_ROUTE
    | rtnl.RTMGRP_IPV4_RULE
    | rtnl.RTMGRP_IPV6_RULE
)

# include/uapi/linux/rtnetlink.h
_RTM_F_CLONED = 0x200


class Change(Flag):
    NOTHING = 0
    ADDRESSES = auto()
    LINKS = auto()
    ROUTING = auto()
    ALL = ADDRESSES | LINKS | ROUTING


CHANGES = {
    rtnl.RTM_NEWADDR: Change.ADDRESSES,
    rtnl.RTM_DELADDR: Change.ADDRESSES,
    # Addresses carry the name of their link, and go with it.
    rtnl.RTM_NEWLINK: Change.LINKS | Change.ADDRESSES,
    rtnl.RTM_DELLINK: Change.LINKS | Change.ADDRESSES,
    rtnl.RTM_NEWROUTE: Change.ROUTING,
    rtnl.RTM_DELROUTE: Change.ROUTING,
    rtnl.RTM_NEWRULE: Change.ROUTING,
    rtnl.RTM_DELRULE: Change.ROUTING,
}


class HeaderMarshal(Marshal):  # type: ignore[misc]  # pyroute2 has no types
    """Makes of a notification {"header": …, "change": …}; None of what is no news."""

    def get_parser(
        self, key: int, flags: int, sequence_number: int
    ) -> Callable[[bytes, int, int], dict[str, Any] | None]:
        def parse(data: bytes, offset: int, length: int) -> dict[str, Any] | None:
            header: dict[str, Any] = {"type": key, "flags": flags, "error": None}
            if key == NLMSG_ERROR:
                (code,) = struct.unpack_from("i", data, offset + 16)
                if code == 0:
                    return None
                # The socket object puts its own failures (ENOBUFS) into the queue in this form.
                header["error"] = OSError(abs(code), "rtnetlink notifications")
                return {"header": header}
            change = CHANGES.get(key)
            if change is None or (change is Change.ROUTING and _is_own_or_cached(key, data, offset, length)):
                return None
            return {"header": header, "change": change}

        return parse


def _is_own_or_cached(key: int, data: bytes, offset: int, length: int) -> bool:
    """Whether a route is of our making or only an entry of the IPv6 route cache (path MTU, redirect)."""
    if key not in (rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE) or length < 28:
        return False
    # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type (1 byte each), flags
    protocol = data[offset + 21]
    (route_flags,) = struct.unpack_from("I", data, offset + 24)
    return protocol == OWN_PROTOCOL or bool(route_flags & _RTM_F_CLONED)
