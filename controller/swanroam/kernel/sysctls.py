"""Kernel parameters of this host that decide whether packets of old and new addresses pass, and pass protected.

They are read, never set: the administrator's are his own.
Source: Documentation/networking/ip-sysctl.rst, xfrm_proc.rst; Documentation/admin-guide/LSM/Yama.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from swanroam.kernel.carrier_devices import DEVICE_NAMES
from swanroam.kernel.findings import Finding, Severity, ok

SYS: Final = Path("/proc/sys")
NO_ADDRESSES: Final = (
    "to have no IPv6 addresses all the same: accept_ra=0 and addr_gen_mode=1 there, or with NetworkManager "
    "`nmcli connection modify NAME ipv6.method link-local` instead of disabled"
)
_NOT_INTERFACES: Final = ("all", "default", "lo", *DEVICE_NAMES.values())


def packet_parameters(counts: Callable[[str], bool] = lambda _: True, sys: Path = SYS) -> list[Finding]:
    """Everything about addresses and packets. `counts`: whether an interface's addresses may be those of a peer's
    connections."""
    interfaces = [name for name in _interfaces(sys) if counts(name)]
    return [
        _reverse_path_filter(interfaces, sys),
        _address_resolution(sys),
        *_exempt_from_ipsec(interfaces, sys),
        _path_mtu_discovery(sys),
        _inner_packets(interfaces, sys),
    ]


def drops_ipv6(interface: str, sys: Path = SYS) -> bool:
    """IPv6 is off there. So what comes out of ESP and is IPv6 is dropped (ipv6_rcv, net/ipv6/ip6_input.c), whatever the
    outer addresses are: it counts as received by the interface that the ESP packet came in by."""
    return _read(sys / "net/ipv6/conf" / interface / "disable_ipv6") != 0


def turn_on_ipv6(interfaces: Iterable[str]) -> str:
    """The command."""
    return "sysctl " + " ".join(f"net.ipv6.conf.{_name(name)}.disable_ipv6=0" for name in interfaces)


def _interfaces(sys: Path) -> list[str]:
    found = (path.name for path in sorted((sys / "net/ipv4/conf").glob("*")))
    return [name for name in found if name not in _NOT_INTERFACES]


def _reverse_path_filter(interfaces: Iterable[str], sys: Path) -> Finding:
    """conf/all counts for every device, the larger value wins (ip-sysctl); the carrier's own is loose then."""
    check = "rp_filter"
    everywhere = _read(sys / "net/ipv4/conf/all/rp_filter")
    strict = [name for name in interfaces if max(everywhere, _read(_interface(sys, name) / "rp_filter")) == 1]
    if not strict:
        return ok(check, "loose or off")
    return Finding(
        check,
        Severity.WARNING,
        f"rp_filter is strict on {', '.join(strict)}: while both addresses are there, packets that still come "
        "to the old one natively are dropped, because the way back leads through the carrier",
        "loose mode does not have this; to keep it after a reboot, write it to a file in /etc/sysctl.d",
        "sysctl " + " ".join(f"net.ipv4.conf.{_name(name)}.rp_filter=2" for name in strict),
    )


def _address_resolution(sys: Path) -> Finding:
    """Until it is narrowed, an old address is local, and ARP is answered for it where it may be somebody else's."""
    check = "arp_ignore"
    if _read(sys / "net/ipv4/conf/all/arp_ignore"):
        return ok(check, "ARP is answered for an interface's own addresses only")
    return Finding(
        check,
        Severity.NOTE,
        "net.ipv4.conf.all.arp_ignore is 0: until the sockets of an old address have moved, some seconds after a "
        "move, this host answers ARP for it in the new network as well, where it may belong to another host",
        command="sysctl net.ipv4.conf.all.arp_ignore=1",
    )


def _exempt_from_ipsec(interfaces: Iterable[str], sys: Path) -> list[Finding]:
    """disable_xfrm: nothing that leaves there is encrypted or held back; disable_policy: all that comes is accepted."""
    findings = []
    for parameter, effect in (
        ("disable_xfrm", "what leaves there is neither encrypted nor held back by guards"),
        ("disable_policy", "what comes in there in clear is accepted, whatever IPsec policies say"),
    ):
        everywhere = _read(sys / "net/ipv4/conf/all" / parameter)
        exempt = [name for name in interfaces if everywhere or _read(_interface(sys, name) / parameter)]
        if not exempt:
            findings.append(ok(parameter, "no interface is exempt from IPsec"))
            continue
        culprits = ["all"] * bool(everywhere) + [name for name in exempt if _read(_interface(sys, name) / parameter)]
        findings.append(
            Finding(
                parameter,
                Severity.ERROR,
                f"{parameter} is on for {', '.join(exempt)}: {effect}",
                command="sysctl " + " ".join(f"net.ipv4.conf.{_name(name)}.{parameter}=0" for name in culprits),
            )
        )
    return findings


def _path_mtu_discovery(sys: Path) -> Finding:
    """strongswan#2946: with it, kernels from 6.10 on refuse the inbound SA that charon makes at a move (MOBIKE)."""
    check = "ip_no_pmtu_disc"
    if not _read(sys / "net/ipv4/ip_no_pmtu_disc"):
        return ok(check, "path MTU discovery is on")
    return Finding(
        check,
        Severity.WARNING,
        "net.ipv4.ip_no_pmtu_disc is on: narrower paths are not learnt, and from Linux 6.10 on charon cannot install "
        "inbound SAs again that it moves",
        command="sysctl net.ipv4.ip_no_pmtu_disc=0",
    )


def _inner_packets(interfaces: Iterable[str], sys: Path) -> Finding:
    """Not where IPv6 is off on lo as well: that is told as what it is (preflight)."""
    check = "disable_ipv6"
    deaf = [name for name in interfaces if drops_ipv6(name, sys)]
    if not deaf or drops_ipv6("lo", sys):
        return ok(check, "IPv6 is on on every interface that counts")
    return Finding(
        check,
        Severity.WARNING,
        f"IPv6 is off on {', '.join(deaf)}: the control channel's packets are IPv6 inside ESP, also between IPv4 "
        "addresses, and the kernel drops those that come in there",
        NO_ADDRESSES,
        turn_on_ipv6(deaf),
    )


def tracing(sys: Path = SYS) -> Finding:
    """Whether a process with CAP_SYS_PTRACE may stop others, which moving their sockets takes."""
    check = "ptrace_scope"
    if _read(sys / "kernel/yama/ptrace_scope") < 3:
        return ok(check, "programs can be stopped while their sockets move")
    return Finding(
        check,
        Severity.ERROR,
        "kernel.yama.ptrace_scope is 3: nobody may stop a program, so no socket can move",
        "it cannot be taken back while the machine runs: set it to 2 or less where it is set (/etc/sysctl.conf, "
        "/etc/sysctl.d) and reboot; or set transport: keep for all peers",
    )


def _interface(sys: Path, name: str) -> Path:
    return sys / "net/ipv4/conf" / name


def _name(interface: str) -> str:
    """As sysctl(8) wants it: a dot in an interface's name is written as a slash."""
    return interface.replace(".", "/")


def _read(path: Path) -> int:
    """The value; 0 when there is no such parameter, or no longer."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
