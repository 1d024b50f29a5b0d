"""The packets that have to pass this host's packet filter, and what is said of those that do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swanroam.doctor.firewall.iptables import read_iptables
from swanroam.doctor.firewall.nftables import read_nftables, without_iptables
from swanroam.doctor.firewall.packets import UDP, Packet
from swanroam.doctor.firewall.rules import Loss, Table, losses
from swanroam.doctor.programs import output_of
from swanroam.doctor.view import View, Way
from swanroam.kernel.carrier_devices import DEVICE_NAMES
from swanroam.kernel.findings import Finding, Severity, ok
from swanroam.kernel.rtnetlink import family_of

_ESP: Final = 50
_CARRIER: Final = {4: 4, 6: 41}
IKE_PORTS: Final = (500, 4500)
_LEGACY: Final = {4: Path("/proc/thread-self/net/ip_tables_names"), 6: Path("/proc/thread-self/net/ip6_tables_names")}
"""Tables of the old iptables, which nft does not show, by IP version; empty where it is not used."""


@dataclass(frozen=True, slots=True)
class Need:
    """Packets of one kind. `nft` and `iptables` select them in a rule, as these programs want it."""

    what: str
    packets: tuple[Packet, ...]
    nft: str
    iptables: str


def check(view: View) -> list[Finding]:
    """All packet filters of this host, for all peers with which there is an IKE_SA."""
    if not view.privileged:
        return [Finding("firewall", Severity.UNSEEN, "packet filters show their rules to root only")]
    tables, trouble = _read()
    found = [] if trouble is None else [trouble]
    if not view.ways and tables:
        evidence = "without an IKE_SA it is not known which addresses must pass; the rules were not judged"
        found.append(Finding("firewall", Severity.NOTE, evidence, "look again when there is one"))
    return [*found, *firewall_findings(needs(view), tables)]


def _read() -> tuple[list[Table], Finding | None]:
    """Every ruleset that can be read, each once; and what to do where one can't be."""
    tables: list[Table] = []
    try:
        nft = output_of("nft", "-j", "list", "ruleset")
        if nft.status == 0:
            tables = read_nftables(nft.out)
        saved = [table for version in (4, 6) for table in _saved(version)]
    except ValueError as error:
        return [], Finding("firewall", Severity.WARNING, f"the rules could not be read: {error}", "report it")
    if saved:  # tells more of what iptables-nft has made than nft does
        return [*without_iptables(tables), *saved], None
    if nft.status != 0 and _has_nftables():
        evidence = f"there may be packet filter rules, and they could not be read: {nft.err}"
        return [], Finding("firewall", Severity.NOTE, evidence, command="apt install nftables" if nft.missing else "")
    return tables, None


def _has_nftables() -> bool:
    return Path("/sys/module/nf_tables").exists()


def _saved(version: int) -> Iterator[Table]:
    program = "iptables" if version == 4 else "ip6tables"
    variants = {f"{program}-nft"}
    try:
        if _LEGACY[version].read_text(encoding="ascii").strip():
            variants.add(f"{program}-legacy")
    except OSError:
        pass  # without its module
    for variant in sorted(variants):
        said = output_of(f"{variant}-save")
        if said.status == 0:
            yield from read_iptables(said.out, variant, version)


def needs(view: View) -> list[Need]:
    """What has to pass, of all peers; packets of one kind and IP version are together."""
    found: list[Need] = []
    for version in (4, 6):
        ways = [way for way in view.ways if way.pair.local.version == version]
        if ways:
            found += _of_version(version, ways)
    if view.ways:
        port, prefix = view.config.control.port, view.config.control.prefix
        found.append(
            Need(
                "the controllers' messages inside IPsec",
                tuple(packet for way in view.ways for packet in _control(view, way)),
                f"ip6 saddr {prefix} ip6 daddr {prefix} udp dport {port}",
                f"-s {prefix} -d {prefix} -p udp --dport {port}",
            )
        )
    return found


def _of_version(version: int, ways: Iterable[Way]) -> Iterator[Need]:
    carrier = _CARRIER[version]
    ports = ",".join(map(str, IKE_PORTS))
    nft_ports = ", ".join(map(str, IKE_PORTS))
    ways = list(ways)
    yield Need(
        "IKE",
        tuple(
            packet for way in ways for port in IKE_PORTS for packet in _both(way, UDP, (port, port), _peer_begins(way))
        ),
        f"udp dport '{{ {nft_ports} }}'",
        f"-p udp -m multiport --dports {ports}",
    )
    yield Need("ESP", tuple(packet for way in ways for packet in _both(way, _ESP)), "meta l4proto 50", "-p 50")
    yield Need(
        f"the carrier (IP protocol {carrier})",
        tuple(packet for way in ways for packet in _both(way, carrier, None, _peer_begins(way))),
        f"meta l4proto {carrier}",
        f"-p {carrier}",
    )
    device = DEVICE_NAMES[family_of(ways[0].pair.local)]
    yield Need(
        "ESP in the carrier",
        tuple(packet for way in ways for packet in _both(way, _ESP, interface=device, begins=False)),
        "meta l4proto 50",
        "-p 50",
    )


def _peer_begins(way: Way) -> bool:
    """Where only we move, what comes is an answer."""
    return way.peer.moves.peer_may


def _both(
    way: Way,
    protocol: int,
    ports: tuple[int, int] | None = None,
    begins: bool = True,
    interface: str | None = None,
) -> tuple[Packet, Packet]:
    """What goes and what comes."""
    by = interface or (None if way.route is None else way.route.interface)
    local, remote = way.pair.local, way.pair.remote
    return (
        Packet(incoming=False, protocol=protocol, source=local, destination=remote, ports=ports, interface=by),
        Packet(
            incoming=True,
            protocol=protocol,
            source=remote,
            destination=local,
            ports=ports,
            interface=by,
            begins=begins,
        ),
    )


def _control(view: View, way: Way) -> tuple[Packet, Packet]:
    ours, its, port = view.config.control.address, way.peer.control_address, view.config.control.port
    by = None if way.route is None else way.route.interface
    return (
        Packet(incoming=False, protocol=UDP, source=ours, destination=its, ports=(port, port)),
        Packet(incoming=True, protocol=UDP, source=its, destination=ours, ports=(port, port), interface=by, ipsec=True),
    )


def firewall_findings(needed: Iterable[Need], tables: list[Table]) -> list[Finding]:
    """One for each kind of packet and chain that loses some of it."""
    found: list[Finding] = []
    for need in needed:
        lost: dict[tuple[str, str], tuple[Loss, Packet]] = {}
        for packet in need.packets:
            for loss in losses(tables, packet):
                place = loss.table.label, loss.chain
                if place not in lost or (loss.certain and not lost[place][0].certain):
                    lost[place] = loss, packet
        found += [_finding(need, loss, packet) for loss, packet in lost.values()]
    certain = {finding.command for finding in found if finding.severity is Severity.ERROR}
    found = [one for one in found if one.severity is Severity.ERROR or one.command not in certain]
    return list({(one.severity, one.command): one for one in reversed(found)}.values())[::-1] or [
        ok("firewall", f"{len(tables)} tables let pass what is needed" if tables else "no rules")
    ]


def _finding(need: Need, loss: Loss, packet: Packet) -> Finding:
    way = f"from {packet.source}" if packet.incoming else f"to {packet.destination}"
    where = f"{loss.table.label}, chain {loss.chain}"
    opening = loss.table.opening.format(chain=loss.chain)
    selecting = f"{need.nft} accept" if loss.table.syntax == "nft" else f"{need.iptables} -j ACCEPT"
    command = f"{opening} {selecting}"
    keep = "to keep it, write it where the firewall's configuration is (nftables.conf, firewalld, ufw)"
    if loss.certain:
        return Finding("firewall", Severity.ERROR, f"{where}: {need.what} {way} is dropped by {loss.by}", keep, command)
    return Finding(
        "firewall",
        Severity.NOTE,
        f"suspicion: {where}: {need.what} {way} may be dropped by {loss.by}; whether it is depends on what cannot be "
        "foretold (marks, rates, sets, interfaces)",
        f"if moves fail, open it; {keep}",
        command,
    )
