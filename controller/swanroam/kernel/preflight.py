"""Can this kernel, in this network namespace and with these privileges, do what swanroam needs?

Everything is found out by trying, with documentation addresses (RFC 5737, RFC 3849) and on a device made for the trial,
and nothing is left. The trials disturb nothing, also beside a running daemon: where its devices exist already, they
prove what would have been tried.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import Callable, Collection, Coroutine, Iterable
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, AddressFamily
from typing import Any, Final

from swanroam.kernel.carrier import CarrierSettings
from swanroam.kernel.carrier_devices import (
    DEVICE_NAMES,
    FALLBACK_DEVICES,
    MODULES,
    CarrierDeviceError,
    Device,
    create_device,
    fallback_devices_up,
    find_devices,
    read_parameter,
    remove_device,
    set_up,
)
from swanroam.kernel.carrier_routes import Rule, TunnelRoute
from swanroam.kernel.findings import Finding, Severity, ok
from swanroam.kernel.ingress import Admitted, Clear, Ingress
from swanroam.kernel.privileges import Capability, effective
from swanroam.kernel.rtnetlink import IPAddress, RouteSocket, RouteSocketError
from swanroam.kernel.xfrm.algorithms import AeadAlgorithm, KeyMaterial
from swanroam.kernel.xfrm.association import SecurityAssociation
from swanroam.kernel.xfrm.errors import XfrmError, XfrmExists, XfrmPermission
from swanroam.kernel.xfrm.migrate import probe_migrate
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.kernel.xfrm.states import add_state, delete_state

PRIVILEGE: Final = "privilege"
MIGRATION: Final = "XFRM_MSG_MIGRATE"
"""Names of two checks."""
_TRIAL_NAMES: Final = {AF_INET: "swanroam4try", AF_INET6: "swanroam6try"}
_TRIAL_ADDRESSES: Final[dict[AddressFamily, tuple[IPAddress, IPAddress]]] = {
    AF_INET: (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")),
    AF_INET6: (IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")),
}
_KERNEL_PACKAGE: Final = "apt install linux-image-amd64 (cloud and container kernels leave it out)"
_TC_OPTIONS: Final = (
    "CONFIG_NET_SCH_INGRESS, NET_CLS_FLOWER, NET_CLS_MATCHALL, NET_CLS_FW, NET_ACT_GACT and NET_ACT_SKBEDIT"
)


async def preflight(
    families: Collection[AddressFamily] = (AF_INET, AF_INET6), settings: CarrierSettings | None = None
) -> list[Finding]:
    """Look at everything that the carrier, the filters and the control channel need in these families.

    Raises nothing but what a programming error raises: what does not work is a finding.
    """
    if not has_net_admin():
        return [
            Finding(
                PRIVILEGE,
                Severity.ERROR,
                "this process lacks CAP_NET_ADMIN, so nothing else could be tried",
                "run it as root, or give it the capability: AmbientCapabilities=CAP_NET_ADMIN",
            )
        ]
    findings = [ok(PRIVILEGE, "CAP_NET_ADMIN is there")]
    try:
        findings += await _guarded("IPsec", partial(_ipsec, families))
    except XfrmPermission as error:
        return [
            Finding(
                PRIVILEGE,
                Severity.ERROR,
                f"CAP_NET_ADMIN is not enough: cannot {error.operation}: {os.strerror(error.errno)}; this process "
                "is in a user namespace that does not own the network namespace",
                "run it as root of the machine, or in a network namespace of the container's own",
            )
        ]
    async with RouteSocket() as netlink:
        for family in families:
            findings += await _guarded(
                _carrier_check(family), partial(_carrier, netlink, family, settings or CarrierSettings())
            )
        findings += await _guarded("fallback tunnels", partial(_fallback_tunnels, netlink))
    findings += _control_channel()
    return findings


def has_net_admin() -> bool:
    """Whether CAP_NET_ADMIN is effective in this process's user namespace."""
    return Capability.NET_ADMIN in effective()


async def _guarded(check: str, trial: Callable[[], Coroutine[Any, Any, list[Finding]]]) -> list[Finding]:
    """A refusal that a trial did not expect is a finding, too. Raises XfrmPermission."""
    try:
        return await trial()
    except XfrmPermission:
        raise
    except (RouteSocketError, XfrmError) as error:
        return [Finding(check, Severity.ERROR, str(error), "see the message; the kernel's log may say more")]


async def _ipsec(families: Iterable[AddressFamily]) -> list[Finding]:
    findings = []
    async with XfrmSocket() as xfrm:
        for family in families:
            findings.append(await _esp(xfrm, family))
        findings.append(await migration(xfrm))
    return findings


async def migration(xfrm: XfrmSocket) -> Finding:
    """Whether the kernel can do method migrate. Raises XfrmPermission."""
    try:
        await probe_migrate(xfrm)
    except XfrmPermission:
        raise
    except XfrmError as error:
        return Finding(MIGRATION, Severity.WARNING, str(error), "use method renegotiate, the default")
    return ok(MIGRATION, "the kernel migrates policies and SAs")


async def _esp(xfrm: XfrmSocket, family: AddressFamily) -> Finding:
    """Add an SA between documentation addresses with a random key, and delete it."""
    number = 4 if family == AF_INET else 6
    check = f"ESP for IPv{number}"
    source, destination = _TRIAL_ADDRESSES[family]
    association = SecurityAssociation(
        Selector.between(source, destination),
        source,
        destination,
        spi=0x100 + secrets.randbelow(0x7FFFFFFF),
        aead=AeadAlgorithm("rfc4106(gcm(aes))", 160, 128, KeyMaterial(secrets.token_bytes(20))),
    )
    try:
        await add_state(xfrm, association)
    except XfrmExists:
        return ok(check, "SAs can be made")  # the SPI was in use: one was
    except XfrmError as error:
        if error.errno != errno.EPROTONOSUPPORT and error.errno != errno.ENOSYS:
            raise
        option = "CONFIG_INET_ESP" if number == 4 else "CONFIG_INET6_ESP"
        return Finding(
            check,
            Severity.ERROR,
            f"the kernel has no ESP for IPv{number}, or no AES-GCM: {error.text or os.strerror(error.errno)}",
            f"without the module the kernel was built without {option}: {_KERNEL_PACKAGE}",
            f"modprobe esp{number}",
        )
    await delete_state(xfrm, association.id)
    return ok(check, "SAs can be made")


def _carrier_check(family: AddressFamily) -> str:
    return "IPv4-in-IPv4 carrier" if family == AF_INET else "IPv6-in-IPv6 carrier"


async def _carrier(netlink: RouteSocket, family: AddressFamily, settings: CarrierSettings) -> list[Finding]:
    """Make a carrier device of another name with all that stands on it, and remove it."""
    check = _carrier_check(family)
    try:
        existing = (await find_devices(netlink)).get(family)
        if existing is not None:
            return [ok(check, f"device {existing.name} is there")]
        await _remove_trial_device(netlink, family)  # of a trial that was killed
        device = await create_device(netlink, family, _TRIAL_NAMES[family])
        findings = [ok(check, f"a device like {DEVICE_NAMES[family]} can be made")]
        findings.append(await _ingress_filter(netlink, device))
        if findings[-1].severity is Severity.OK:
            findings.append(await _routing(netlink, device, settings))
    except CarrierDeviceError as error:
        if error.errno == errno.EOPNOTSUPP:
            module, option = MODULES[family]
            remedy = f"without the module the kernel was built without {option}: {_KERNEL_PACKAGE}"
            return [Finding(check, Severity.ERROR, error.reason, remedy, f"modprobe {module}")]
        return [Finding(check, Severity.ERROR, error.reason, error.remedy)]
    finally:
        await asyncio.shield(_remove_trial_device(netlink, family))
    return findings


async def _remove_trial_device(netlink: RouteSocket, family: AddressFamily) -> None:
    index = await netlink.interface_index(_TRIAL_NAMES[family])
    if index is not None:
        await remove_device(netlink, Device(family, index, up=False))


async def _ingress_filter(netlink: RouteSocket, device: Device) -> Finding:
    check = f"{_carrier_check(device.family)}: ingress filter"
    remote, local = _TRIAL_ADDRESSES[device.family]
    ingress = Ingress(netlink, device.family, device.index, CarrierSettings().admitted_mark)
    try:
        await ingress.close()
        await ingress.admit([Admitted(remote, local, Clear(1, remote, local))])
    except RouteSocketError as error:
        modules = "modprobe -a sch_ingress cls_flower cls_matchall cls_fw act_gact act_skbedit"
        return Finding(check, Severity.ERROR, str(error), f"the kernel needs {_TC_OPTIONS}", modules)
    return ok(check, "clsact, flower, matchall, fw, gact and skbedit work")


async def _routing(netlink: RouteSocket, device: Device, settings: CarrierSettings) -> Finding:
    """An encapsulating route and a rule, in the tables and at the priority that will be used."""
    check = f"{_carrier_check(device.family)}: routing"
    remote, local = _TRIAL_ADDRESSES[device.family]
    route = TunnelRoute(settings.table, remote, local, remote, device.index)
    rule = Rule(local, remote, settings.table, settings.data_priority, settings.control_mark)
    try:
        await set_up(netlink, device)
        await route.add(netlink)
        await rule.add(netlink)
    except RouteSocketError as error:
        options = "CONFIG_LWTUNNEL, CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES"
        return Finding(check, Severity.ERROR, str(error), f"the kernel needs {options}: {_KERNEL_PACKAGE}")
    finally:
        await asyncio.shield(rule.remove(netlink))
    return ok(check, "encapsulating routes and rules work")


async def _fallback_tunnels(netlink: RouteSocket) -> list[Finding]:
    check = "fallback tunnels"
    up = await fallback_devices_up(netlink)
    return [
        Finding(
            check,
            Severity.WARNING,
            f"{name} is up: it decapsulates IP-in-IP from everybody, and nothing of swanroam filters it",
            "unless something on this host needs it",
            f"ip link set {name} down",
        )
        for name in up
    ] or [ok(check, f"none of {', '.join(FALLBACK_DEVICES)} is up")]


def _control_channel() -> list[Finding]:
    check = "IPv6 for the control channel"
    match read_parameter("/proc/sys/net/ipv6/conf/lo/disable_ipv6"):
        case 0:
            return [ok(check, "IPv6 is on on lo")]
        case None:
            what, remedy = "the kernel runs without IPv6", "boot without ipv6.disable=1 (the kernel needs CONFIG_IPV6)"
            command = ""
        case _:
            what, remedy, command = "IPv6 is off on lo", "", "sysctl net.ipv6.conf.lo.disable_ipv6=0"
    evidence = f"{what}: the inner addresses are IPv6, whatever the outer are"
    return [Finding(check, Severity.ERROR, evidence, remedy, command)]
