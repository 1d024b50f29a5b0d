"""The way to each peer: is there a route, and does what swanroam sends fit?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from swanroam.doctor.view import View, Way
from swanroam.kernel.carrier_devices import DEVICE_NAMES
from swanroam.kernel.findings import Finding, Severity, ok
from swanroam.kernel.rtnetlink import WayOut, family_of
from swanroam.protocol.codec import MAX_DATAGRAM
from swanroam.protocol.credit import MOST_AROUND

ETHERNET: Final = 1500
"""Bytes of the largest packet that leaves the carrier: its devices' MTU and the outer header."""
_OUTER_HEADER: Final = {4: 20, 6: 40}
_SYS: Final = Path("/sys/class/net")


def check(view: View) -> list[Finding]:
    """Of all peers with which there is an IKE_SA."""
    return [of_way(way, _carrier_mtu(way)) for way in view.ways]


def of_way(way: Way, carrier_mtu: int | None) -> Finding:
    """`carrier_mtu`: of the carrier's device for these addresses, in bytes; None while there is none."""
    check = "MTU"
    local, remote = way.pair.local, way.pair.remote
    if way.route is None:
        return Finding(
            check,
            Severity.WARNING,
            f"there is no route from {local} to {remote} ({way.peer.identity})",
            "wait for the network, or mend the routing",
        )
    where = f"{way.route.mtu} bytes towards {remote} by {way.route.interface}"
    control = MAX_DATAGRAM + MOST_AROUND[local.version]
    if way.route.mtu < control:
        return _too_narrow(way, way.route, f"{where}, and the controllers' messages can need {control} in the carrier")
    fits = way.route.mtu - _OUTER_HEADER[local.version]
    # The outer addresses' path MTU is discovered where they are IPv6.
    if local.version == 6 or way.route.mtu >= ETHERNET or (carrier_mtu is not None and carrier_mtu <= fits):
        return ok(check, where)
    device = DEVICE_NAMES[family_of(local)]
    return Finding(
        check,
        Severity.NOTE,
        f"{where}: packets of up to {ETHERNET} bytes leave the carrier, in fragments here; they are lost where a "
        "firewall drops fragments",
        "on both hosts; until the daemon is started again"
        if carrier_mtu
        else f"once it is there, give {device} {fits}",
        f"ip link set dev {device} mtu {fits}" if carrier_mtu else "",
    )


def _too_narrow(way: Way, route: WayOut, evidence: str) -> Finding:
    if route.interface_mtu > route.mtu:
        remedy, command = "a link between the hosts, or a tunnel, is that narrow: widen it", ""
    else:
        remedy = "if the link can carry that; to keep it, set it where the interface is configured"
        command = f"ip link set dev {route.interface} mtu {ETHERNET}"
    return Finding(
        "MTU", Severity.WARNING, f"{evidence}: they are fragmented, and lost where fragments are", remedy, command
    )


def _carrier_mtu(way: Way) -> int | None:
    try:
        return int((_SYS / DEVICE_NAMES[family_of(way.pair.local)] / "mtu").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
