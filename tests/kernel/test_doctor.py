"""What the doctor reads from this kernel and its packet filters; its commands, run in a shell, mend it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kernel.fresh_namespace import in_fresh_namespace, ip
from swanroam.doctor import traces
from swanroam.doctor.examination import examine
from swanroam.doctor.firewall import checks
from swanroam.doctor.view import Api
from swanroam.kernel.findings import Finding, Severity
from swanroam.kernel.privileges import effective
from swanroam.kernel.rtnetlink import RouteSocket, WayOut
from swanroam.kernel.xfrm.constants import Direction
from swanroam.kernel.xfrm.guards import guard, prefix_guard
from swanroam.kernel.xfrm.policies import apply_owned
from swanroam.kernel.xfrm.socket import XfrmSocket
from unit.doctor_views import LOCAL, REMOTE, bad, config, healthy, only

pytestmark = pytest.mark.kernel

_libc = ctypes.CDLL(None, use_errno=True)
CARRIER = "IP protocol 4"


def shell(command: str) -> None:
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def drop_capabilities() -> None:
    """Take every effective capability from the calling thread (capset of version 3), for good."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.parametrize(
    "rules",
    [
        "nft add table inet f; nft add chain inet f input '{ type filter hook input priority 0; policy drop; }'",
        "nft add table ip f; nft add chain ip f o '{ type filter hook output priority 0; }'; "
        "nft add rule ip f o oifname '\"eth*\"' ip daddr 10.3.3.0/24 ip protocol { 4, 47 } counter reject",
        "ip link add eth0 type veth peer name eth1 && nft add table netdev f && "
        "nft add chain netdev f i '{ type filter hook ingress device eth0 priority 0; }' && "
        "nft add rule netdev f i ip protocol 4 drop",
        "iptables-legacy -N site; iptables-legacy -A INPUT -j site; iptables-legacy -A site -p 4 -j DROP",
        "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    ],
    ids=["nft policy", "nft rule", "nft netdev", "iptables-legacy", "iptables-nft"],
)
def test_a_filter_that_drops_the_carrier_is_opened_by_the_command(rules: str, tmp_path: Path) -> None:
    view = healthy(tmp_path)

    async def scenario() -> None:
        assert bad(checks.check(view)) == []
        shell(rules)

        found = bad(checks.check(view))
        assert CARRIER in next(finding.evidence for finding in found if "carrier (" in finding.evidence)
        assert {finding.severity for finding in found} == {Severity.ERROR}
        for finding in found:
            shell(finding.command)

        assert bad(checks.check(view)) == []

    in_fresh_namespace(scenario)


def test_a_filter_that_lets_pass_what_is_needed_is_fine(tmp_path: Path) -> None:
    view = healthy(tmp_path)

    async def scenario() -> None:
        shell("nft add table inet f; nft add chain inet f input '{ type filter hook input priority 0; policy drop; }'")
        shell("nft add set inet f peers '{ type ipv4_addr; flags interval; elements = { 10.3.0.0/16 }; }'")
        for rule in (
            "ct state established,related accept",
            "ip saddr @peers meta l4proto { 4, 50 } accept",
            "udp dport { 500, 4500 } accept",
            "meta ipsec exists ip6 saddr fd53:7761:6e72::/48 udp dport 4510 accept",
        ):
            shell(f"nft add rule inet f input '{rule}'")
        assert bad(checks.check(view)) == []

    in_fresh_namespace(scenario)


def test_the_way_out_and_what_fits_into_it_are_read() -> None:
    async def scenario() -> None:
        ip(
            "link add eth0 type veth peer name eth1",
            "link set eth1 up",
            "link set eth0 mtu 1400 up",
            "addr add 10.1.1.2/24 dev eth0",
        )
        ip("route add 10.3.3.0/24 via 10.1.1.1 dev eth0")
        ip("route add 10.4.4.0/24 via 10.1.1.1 dev eth0 mtu 1300")
        async with RouteSocket() as netlink:
            assert await netlink.path_to(REMOTE, LOCAL) == WayOut("eth0", 1400, 1400)
            assert await netlink.path_to(type(REMOTE)("10.4.4.4"), LOCAL) == WayOut("eth0", 1400, 1300)
            assert await netlink.path_to(type(REMOTE)("10.5.5.5"), LOCAL) is None

    in_fresh_namespace(scenario)


def test_guards_and_leftovers_are_found_in_the_kernel(tmp_path: Path) -> None:
    running = healthy(tmp_path)
    stopped = replace(running, daemon_pid=None, api=Api(None, "no daemon answers"))

    async def scenario() -> None:
        assert bad(await traces.check(stopped)) == []
        assert only(await traces.check(running)).severity is Severity.ERROR

        wanted = {*prefix_guard(running.config.control.prefix), guard(LOCAL, REMOTE, Direction.OUT)}
        async with XfrmSocket() as xfrm:
            await apply_owned(xfrm, wanted)

        assert bad(await traces.check(running)) == []
        left = only(await traces.check(stopped))
        assert (left.severity, left.command) == (Severity.WARNING, "swanroam cleanup")
        assert f"{len(wanted)} guards" in left.evidence

    in_fresh_namespace(scenario)


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_without_charon_daemon_and_privileges_everything_else_is_looked_at(tmp_path: Path) -> None:
    settings = config(more=f"vici_socket: {tmp_path}/vici", directory=tmp_path)

    async def scenario() -> None:
        with_all = by_check(await examine(settings, tmp_path / "swanroam.yaml", Api(None, "no daemon answers")))
        assert with_all["charon"].severity is Severity.ERROR
        assert with_all["daemon"].severity is Severity.WARNING
        assert with_all["leftovers"].severity is Severity.OK
        assert with_all["this look"].severity is Severity.OK
        assert "ESP for IPv4" in with_all

        drop_capabilities()
        assert not effective()
        with_none = by_check(await examine(settings, tmp_path / "swanroam.yaml", Api(None, "no daemon answers")))
        assert "ESP for IPv4" not in with_none
        assert {name for name, finding in with_none.items() if finding.severity is Severity.UNSEEN} >= {
            "this look",
            "firewall",
            "leftovers",
        }
        assert with_none["this look"].command.startswith("sudo swanroam doctor --config ")
        assert with_none["charon"].severity is Severity.ERROR
        assert {"rp_filter", "ptrace_scope", "clock", "journal"} <= set(with_none)

    in_fresh_namespace(scenario)
