"""The two devices of the carrier: `swanroam4` (IPv4 in IPv4) and `swanroam6` (IPv6 in IPv6).

Both are in collect-metadata ("external") mode: the outer addresses of a packet that leaves come from its route,
and a packet with any outer addresses comes in. One device therefore serves every peer. The kernel allows one such
device for each kind in a network namespace; its receiver stands behind all tunnels with fixed addresses and before the
fallback devices tunl0 and ip6tnl0. Source: net/ipv4/ipip.c, net/ipv6/ip6_tunnel.c (collect_md), ip-link(8).

What comes in is dropped by the filter of `swanroam.kernel.ingress` unless it is admitted; that filter stands before
the device is up for the first time.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, AddressFamily
from typing import Any, Final

from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from swanroam.kernel.rtnetlink import ADD, RouteSocket, RouteSocketError

IFF_UP: Final = 1

DEVICE_NAMES: Final = {AF_INET: "swanroam4", AF_INET6: "swanroam6"}

FALLBACK_DEVICES: Final = ("tunl0", "ip6tnl0")
"""Made by the kernel together with the modules ipip and ip6_tunnel; while they are down they decapsulate nothing."""

_KINDS: Final = {AF_INET: "ipip", AF_INET6: "ip6tnl"}
MODULES: Final = {AF_INET: ("ipip", "CONFIG_NET_IPIP"), AF_INET6: ("ip6_tunnel", "CONFIG_IPV6_TUNNEL")}
_MTU: Final = {AF_INET: 1500 - 20, AF_INET6: 1500 - 40}
"""An Ethernet packet less the outer header. Where the path to the peer is narrower, the kernel learns it by path MTU
discovery for the outer addresses (IPv6) or lets routers fragment the outer packet (IPv4), see `carrier`."""


class CarrierDeviceError(RouteSocketError):
    """A device of the carrier cannot be made or set up as it must be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Device:
    """A carrier device as found."""

    family: AddressFamily
    index: int
    up: bool

    @property
    def name(self) -> str:
        return DEVICE_NAMES[self.family]


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A kernel parameter of one device: what it should be, and whether the carrier works without that."""

    path: str
    wanted: int
    required: bool


def _parameters(name: str, rp_filter: int) -> tuple[_Parameter, ...]:
    """What is set for a device of ours, and for no other.

    IPv4's rp_filter: the route back to a decapsulated packet's source leads through another device. The kernel uses
    the larger of this and conf/all, so where the latter is strict (1), ours is loose (2).
    disable_policy and disable_xfrm must be off because what comes out of the carrier has to pass the security policies.
    IPv6 stays on for `swanroam4`, too: routes of the control channel end there, see `inner`.
    """
    ipv4, ipv6 = f"/proc/sys/net/ipv4/conf/{name}", f"/proc/sys/net/ipv6/conf/{name}"
    return (
        _Parameter(f"{ipv4}/rp_filter", rp_filter, required=True),
        _Parameter(f"{ipv4}/disable_policy", 0, required=True),
        _Parameter(f"{ipv4}/disable_xfrm", 0, required=True),
        _Parameter(f"{ipv4}/forwarding", 0, required=False),
        _Parameter(f"{ipv4}/accept_redirects", 0, required=False),
        _Parameter(f"{ipv6}/disable_policy", 0, required=True),
        _Parameter(f"{ipv6}/disable_ipv6", 0, required=True),
        _Parameter(f"{ipv6}/forwarding", 0, required=False),
        _Parameter(f"{ipv6}/accept_redirects", 0, required=False),
        _Parameter(f"{ipv6}/accept_ra", 0, required=False),
        _Parameter(f"{ipv6}/autoconf", 0, required=False),
        _Parameter(f"{ipv6}/accept_dad", 0, required=False),
        _Parameter(f"{ipv6}/addr_gen_mode", 1, required=False),  # no link-local address
    )


def read_parameter(path: str) -> int | None:
    """Value of a file of /proc/sys in this network namespace; None when the kernel has no such parameter."""
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None


def _set_parameters(name: str) -> None:
    """Set what is not yet as wanted. Raises CarrierDeviceError when a required one cannot be set."""
    rp_filter = 2 if read_parameter("/proc/sys/net/ipv4/conf/all/rp_filter") else 0
    for parameter in _parameters(name, rp_filter):
        if read_parameter(parameter.path) in (parameter.wanted, None):
            continue
        try:
            Path(parameter.path).write_text(str(parameter.wanted), encoding="ascii")
        except OSError as error:
            if parameter.required:
                default = parameter.path.removeprefix("/proc/sys/").replace("/", ".").replace(name, "default")
                raise CarrierDeviceError(
                    error.errno or errno.EIO,
                    f"set {parameter.path} to {parameter.wanted}",
                    remedy=f"make /proc/sys writable, or set {default}={parameter.wanted} before the start",
                ) from error


async def find_devices(netlink: RouteSocket) -> dict[AddressFamily, Device]:
    """Our devices in this namespace.

    Raises CarrierDeviceError when a device has one of our names but is of another kind.
    """
    found: dict[AddressFamily, Device] = {}
    for link in await netlink.listing(ifinfmsg(), RTM_GETLINK, "list devices"):
        name = link.get_attr("IFLA_IFNAME")
        for family, ours in DEVICE_NAMES.items():
            if name == ours:
                _refuse_stranger(link, family)
                found[family] = Device(family, link["index"], bool(link["flags"] & IFF_UP))
    return found


def _refuse_stranger(link: Any, family: AddressFamily) -> None:
    kind = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
    flag = "IFLA_IPIP_COLLECT_METADATA" if family == AF_INET else "IFLA_IP6TNL_COLLECT_METADATA"
    data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    if kind != _KINDS[family] or data is None or data.get_attr(flag) is None:
        name = DEVICE_NAMES[family]
        raise CarrierDeviceError(
            errno.EEXIST,
            f"use device {name}",
            f"it is of kind {kind} and not a tunnel in external mode",
            f"rename or remove it: ip link delete {name}",
        )


async def create_device(netlink: RouteSocket, family: AddressFamily, name: str | None = None) -> Device:
    """Make our device of this family and set its kernel parameters; it stays down, nothing can come in yet.

    `name` is another one for trials. Raises CarrierDeviceError with what is missing.
    """
    name, kind = name or DEVICE_NAMES[family], _KINDS[family]
    data: list[tuple[str, object]]
    if family == AF_INET:
        data = [("IFLA_IPIP_COLLECT_METADATA", True)]
    else:
        data = [("IFLA_IP6TNL_COLLECT_METADATA", True), ("IFLA_IP6TNL_PROTO", IPPROTO_IPV6)]
    info = {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": data})]}
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_MTU", _MTU[family]), ("IFLA_LINKINFO", info)]
    try:
        await netlink.execute(message, RTM_NEWLINK, ADD, f"add device {name} of kind {kind}")
        index = await netlink.interface_index(name)
        assert index is not None, "the kernel acknowledged the device"
        _set_parameters(name)
    except CarrierDeviceError:
        raise
    except RouteSocketError as error:
        raise CarrierDeviceError(error.errno, error.operation, remedy=_remedy(error.errno, family)) from error
    return Device(family, index, up=False)


def _remedy(number: int, family: AddressFamily) -> str:
    module, option = MODULES[family]
    match number:
        case errno.EOPNOTSUPP:
            return f"load the module: modprobe {module} (the kernel needs {option})"
        case errno.EEXIST | errno.EBUSY:
            return (
                "the namespace has another tunnel of this kind in external mode, and the kernel allows only one: "
                "find it with `ip -d link` (external) and remove it"
            )
        case errno.EPERM:
            return "run with CAP_NET_ADMIN"
        case _:
            return ""


async def set_up(netlink: RouteSocket, device: Device) -> None:
    """Set the device up. Its ingress filter must stand. Raises RouteSocketError."""
    message = ifinfmsg()
    message["index"], message["flags"], message["change"] = device.index, IFF_UP, IFF_UP
    await netlink.execute(message, RTM_NEWLINK, 0, f"set device {device.name} up")


async def remove_device(netlink: RouteSocket, device: Device) -> None:
    """Remove the device, with its addresses, routes and filters. Raises RouteSocketError."""
    message = ifinfmsg()
    message["index"] = device.index
    await netlink.remove(message, RTM_DELLINK, f"remove device {device.name}")


async def fallback_devices_up(netlink: RouteSocket) -> list[str]:
    """Which of tunl0 and ip6tnl0 are up: each is a decapsulator for everybody that nothing of ours filters."""
    links = await netlink.listing(ifinfmsg(), RTM_GETLINK, "list devices")
    names = [link.get_attr("IFLA_IFNAME") for link in links if link["flags"] & IFF_UP]
    return sorted(set(names) & set(FALLBACK_DEVICES))
