"""The preflight says what is missing and what to do, and leaves nothing."""

import ctypes
import os
import subprocess
from pathlib import Path
from socket import AF_INET

import pytest

from kernel.fresh_namespace import in_fresh_namespace, ip
from swanroam.kernel.carrier import CarrierPlane
from swanroam.kernel.findings import Finding, Severity
from swanroam.kernel.preflight import preflight
from swanroam.kernel.rtnetlink import RouteSocket

_libc = ctypes.CDLL(None, use_errno=True)


def _state() -> str:
    commands = ("link show", "addr show", "rule show", "-6 rule show", "xfrm state show", "xfrm policy show")
    routes = ("route show table all", "-6 route show table all")
    shown = [ip(command) for command in (*commands, *routes)]
    return "\n".join([*shown, subprocess.run(["tc", "qdisc"], capture_output=True, text=True, check=True).stdout])


def _by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def _drop_capabilities() -> None:
    """Take every effective capability from the calling thread (capset of version 3), for good."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.kernel
def test_without_the_capability_it_says_so_and_tries_nothing() -> None:
    async def scenario() -> None:
        _drop_capabilities()
        (finding,) = await preflight()
        assert finding.severity is Severity.ERROR
        assert "CAP_NET_ADMIN" in finding.evidence
        assert finding.mend

    in_fresh_namespace(scenario)


@pytest.mark.kernel
def test_every_problem_has_a_remedy_and_nothing_is_left() -> None:
    async def scenario() -> None:
        before = _state()
        findings = await preflight()
        assert _state() == before
        for finding in findings:
            assert bool(finding.mend) == (finding.severity is not Severity.OK), finding

    in_fresh_namespace(scenario)


@pytest.mark.kernel
def test_missing_ipv6_is_a_failure() -> None:
    async def scenario() -> None:
        parameter = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        assert _by_check(await preflight([AF_INET]))["IPv6 for the control channel"].severity is Severity.OK
        parameter.write_text("1", encoding="ascii")
        finding = _by_check(await preflight([AF_INET]))["IPv6 for the control channel"]
        assert finding.severity is Severity.ERROR
        assert "sysctl net.ipv6.conf.lo.disable_ipv6=0" in finding.mend

    in_fresh_namespace(scenario)


@pytest.mark.lab
def test_a_capable_kernel_has_no_failure_and_keeps_nothing() -> None:
    async def scenario() -> None:
        before = _state()
        findings = await preflight()
        assert _state() == before
        assert not [f for f in findings if f.severity in (Severity.ERROR, Severity.WARNING)]
        for check in (
            "ESP for IPv4",
            "ESP for IPv6",
            "XFRM_MSG_MIGRATE",
            "IPv4-in-IPv4 carrier",
            "IPv4-in-IPv4 carrier: ingress filter",
            "IPv4-in-IPv4 carrier: routing",
            "IPv6-in-IPv6 carrier",
            "IPv6-in-IPv6 carrier: ingress filter",
            "IPv6-in-IPv6 carrier: routing",
        ):
            assert _by_check(findings)[check].severity is Severity.OK

    in_fresh_namespace(scenario)


@pytest.mark.lab
def test_it_does_not_disturb_a_carrier_that_is_there() -> None:
    async def scenario() -> None:
        async with RouteSocket() as netlink:
            await CarrierPlane(netlink).arm([AF_INET])
            before = _state()
            findings = _by_check(await preflight())
            assert _state() == before
            assert findings["IPv4-in-IPv4 carrier"].severity is Severity.OK
            await CarrierPlane(netlink).clear()

    in_fresh_namespace(scenario)


@pytest.mark.lab
def test_a_trial_device_of_a_killed_trial_is_no_obstacle() -> None:
    async def scenario() -> None:
        before = _state()
        ip("link add swanroam4try type ipip external")
        assert _by_check(await preflight())["IPv4-in-IPv4 carrier"].severity is Severity.OK
        assert _state() == before

    in_fresh_namespace(scenario)


@pytest.mark.lab
@pytest.mark.parametrize(
    ("setup", "check", "severity", "words"),
    [
        ("link set tunl0 up", "fallback tunnels", Severity.WARNING, "ip link set tunl0 down"),
        ("link add foreign type ipip external", "IPv4-in-IPv4 carrier", Severity.ERROR, "allows only one"),
        ("link add swanroam4 type dummy", "IPv4-in-IPv4 carrier", Severity.ERROR, "ip link delete swanroam4"),
    ],
)
def test_what_is_in_the_way_is_named(setup: str, check: str, severity: Severity, words: str) -> None:
    async def scenario() -> None:
        ip(setup)
        finding = _by_check(await preflight([AF_INET]))[check]
        assert finding.severity is severity
        assert words in finding.mend

    in_fresh_namespace(scenario)
