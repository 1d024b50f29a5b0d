"""Packet filters as their own programs print them: what does not pass is told, and a suspicion is called one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from swanroam.config import Moves
from swanroam.doctor.firewall import checks
from swanroam.doctor.firewall.checks import firewall_findings, needs
from swanroam.doctor.firewall.iptables import read_iptables
from swanroam.doctor.firewall.nftables import read_nftables, without_iptables
from swanroam.doctor.firewall.packets import Packet
from swanroam.doctor.firewall.rules import Table, losses
from swanroam.doctor.programs import Output
from swanroam.kernel.findings import Severity
from unit.doctor_views import LOCAL, REMOTE, bad, healthy, only

DATA = Path(__file__).parent / "doctor_data"
WORKSTATION = read_nftables((DATA / "nft-workstation.json").read_text())
RULESET = read_nftables((DATA / "nft-ruleset.json").read_text())
SAVED = read_iptables((DATA / "iptables-save.txt").read_text(), "iptables-legacy", 4)


def incoming(protocol: int, source: str = "10.3.3.2", *, interface: str | None = "eth0", **more: object) -> Packet:
    given = {"source": ip_address(source), "destination": LOCAL if "." in source else ip_address("fd00::2")}
    return Packet(incoming=True, protocol=protocol, interface=interface, **{**given, **more})  # type: ignore[arg-type]


def outgoing(protocol: int, interface: str | None = None, **more: object) -> Packet:
    ends = {"source": LOCAL, "destination": REMOTE}
    return Packet(incoming=False, protocol=protocol, interface=interface, **ends, **more)  # type: ignore[arg-type]


def fate(tables: list[Table], packet: Packet) -> str:
    """`passes`, `lost`, or `perhaps`."""
    found = losses(tables, packet)
    return "passes" if not found else "lost" if any(loss.certain for loss in found) else "perhaps"


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (incoming(50), "passes"),
        (incoming(17, ports=(500, 500)), "passes"),
        (incoming(17, ports=(501, 501)), "lost"),
        (incoming(4), "lost"),
        (incoming(4, begins=False), "passes"),
        (incoming(4, interface="lo"), "passes"),
        (incoming(41, "fd00::1"), "lost"),
        (outgoing(4), "passes"),
    ],
)
def test_the_filter_of_a_workstation(packet: Packet, expected: str) -> None:
    assert fate(WORKSTATION, packet) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (incoming(4), "passes"),  # in the named set
        (incoming(4, "10.3.3.9"), "perhaps"),  # unless it has the mark, a set of prefixes holds it
        (incoming(4, "10.3.3.9", interface="wlan0"), "perhaps"),  # no jump; the end rejects, unless it has the mark
        (incoming(6, "11.0.0.1", ports=(9, 80)), "passes"),
        (incoming(17, "11.0.0.1", ports=(9, 80)), "perhaps"),
        (incoming(41, "fd00::1"), "perhaps"),
        (incoming(17, "fd00::1", interface="wlan0", ports=(4510, 4510), ipsec=True), "passes"),
        (incoming(17, "fd00::1", interface="wlan0", ports=(4510, 4510)), "perhaps"),
        (outgoing(4, "x"), "lost"),
        (outgoing(4, "y"), "passes"),
    ],
)
def test_a_ruleset_with_all_kinds_of_matches(packet: Packet, expected: str) -> None:
    assert fate(RULESET, packet) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (incoming(50), "passes"),
        (incoming(17, ports=(4500, 4500)), "passes"),
        (incoming(17, ports=(4510, 4510)), "lost"),
        (incoming(17, ports=(4510, 4510), ipsec=True), "passes"),
        (incoming(4, "10.9.9.9"), "lost"),
        (incoming(4, "10.9.9.9", begins=False), "passes"),
        (incoming(4), "perhaps"),  # back from the chain, accepted with a mark only
        (incoming(50, "127.0.0.1"), "lost"),
        (incoming(50, "127.0.0.1", interface="lo"), "passes"),
        (outgoing(17, "eth1", ports=(9, 4510)), "lost"),
        (outgoing(17, "eth1", ports=(9, 500)), "passes"),
        (outgoing(17, "w", ports=(9, 4510)), "passes"),
        (incoming(41, "fd00::1"), "passes"),  # IPv6 is ip6tables' business
    ],
)
def test_rules_of_iptables(packet: Packet, expected: str) -> None:
    assert fate(SAVED, packet) == expected


def test_a_workstation_that_moves_gets_answers_and_its_correspondent_must_open_the_carrier(tmp_path: Path) -> None:
    view = healthy(tmp_path)
    (way,) = view.ways

    def seen(moves: Moves) -> list[str]:
        ways = (replace(way, peer=replace(way.peer, moves=moves)),)
        return [finding.evidence for finding in bad(firewall_findings(needs(replace(view, ways=ways)), WORKSTATION))]

    control = "the controllers' messages inside IPsec"
    assert [control in text for text in seen(Moves.US)] == [True]
    assert ["protocol 4" in text for text in seen(Moves.PEER)] == [True, False]


def test_the_command_opens_the_chain_that_drops(tmp_path: Path) -> None:
    findings = firewall_findings(needs(healthy(tmp_path)), WORKSTATION)

    opening, prefix = "nft insert rule inet filter input", "fd53:7761:6e72::/48"
    assert [(finding.severity, finding.command) for finding in findings] == [
        (Severity.ERROR, f"{opening} meta l4proto 4 accept"),
        (
            Severity.ERROR,
            f"nft insert rule inet filter input ip6 saddr {prefix} ip6 daddr {prefix} udp dport 4510 accept",
        ),
    ]
    assert "its policy" in findings[0].evidence
    assert f"from {REMOTE}" in findings[0].evidence


def test_what_cannot_be_foretold_is_a_suspicion_and_no_warning(tmp_path: Path) -> None:
    found = [one for one in firewall_findings(needs(healthy(tmp_path)), SAVED) if "protocol 4" in one.evidence]

    assert [finding.severity for finding in found] == [Severity.NOTE]
    assert found[0].evidence.startswith("suspicion: ")
    assert found[0].command == "iptables-legacy -t filter -I INPUT -p 4 -j ACCEPT"


def test_no_rules_are_fine(tmp_path: Path) -> None:
    assert bad(firewall_findings(needs(healthy(tmp_path)), [])) == []


def test_what_iptables_made_in_nftables_is_read_from_iptables_alone() -> None:
    text = (
        '{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 1, "type": "filter",'
        ' "hook": "input", "prio": 0, "policy": "drop"}}]}'
    )
    tables = read_nftables(text)

    assert fate(tables, incoming(4)) == "lost"
    assert without_iptables([*tables, *WORKSTATION]) == WORKSTATION


@pytest.mark.parametrize("text", ["", "[]", '{"nftables": 7}', '{"nftables": [{"chain": {}}]}'])
def test_what_is_no_ruleset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"nft printed|Expecting value"):
        read_nftables(text)


def outputs(monkeypatch: pytest.MonkeyPatch, **said: Output) -> None:
    """What the programs say; those that are not named are not installed."""
    missing = Output(127, "", "not installed", missing=True)
    monkeypatch.setattr(checks, "output_of", lambda *argv: said.get(argv[0].replace("-", "_"), missing))


def test_both_families_of_programs_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nft, saved = ((DATA / name).read_text() for name in ("nft-workstation.json", "iptables-save.txt"))
    outputs(monkeypatch, nft=Output(0, nft, ""), iptables_nft_save=Output(0, saved, ""))

    commands = [finding.command.split()[0] for finding in bad(checks.check(healthy(tmp_path)))]

    assert set(commands) == {"nft", "iptables-nft"}


def test_rules_that_nobody_can_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs(monkeypatch)
    monkeypatch.setattr(checks, "_has_nftables", lambda: True)
    finding = bad(checks.check(healthy(tmp_path)))[0]
    assert (finding.severity, finding.command) == (Severity.NOTE, "apt install nftables")

    monkeypatch.setattr(checks, "_has_nftables", lambda: False)
    assert bad(checks.check(healthy(tmp_path))) == []


def test_without_privileges_it_is_not_looked_at(tmp_path: Path) -> None:
    assert only(checks.check(healthy(tmp_path, privileged=False))).severity is Severity.UNSEEN
