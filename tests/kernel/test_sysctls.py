"""Kernel parameters as this kernel shows them: what is wrong is named, with the command that mends it, and mends it."""

import subprocess
from pathlib import Path

import pytest

from kernel.fresh_namespace import in_fresh_namespace, ip
from swanroam.kernel.findings import Finding, Severity
from swanroam.kernel.sysctls import packet_parameters

pytestmark = pytest.mark.kernel
CONF = Path("/proc/sys/net/ipv4/conf")


def found() -> dict[str, Finding]:
    return {finding.check: finding for finding in packet_parameters(lambda name: name != "ignored")}


@pytest.mark.parametrize(
    ("parameter", "wrong", "severity"),
    [
        ("rp_filter", "1", Severity.WARNING),
        ("disable_xfrm", "1", Severity.ERROR),
        ("disable_policy", "1", Severity.ERROR),
    ],
)
def test_an_interface_that_is_set_wrong_is_named_and_the_command_mends_it(
    parameter: str, wrong: str, severity: Severity
) -> None:
    async def scenario() -> None:
        ip("link add strict.7 type veth peer name ignored")
        for name in ("all", "strict.7", "ignored"):
            (CONF / name / parameter).write_text("0", encoding="ascii")
        (CONF / "ignored" / parameter).write_text(wrong, encoding="ascii")
        assert found()[parameter].severity is Severity.OK

        (CONF / "strict.7" / parameter).write_text(wrong, encoding="ascii")
        finding = found()[parameter]
        assert finding.severity is severity
        assert "strict.7" in finding.evidence
        assert "ignored" not in finding.evidence

        subprocess.run(finding.command, shell=True, check=True, capture_output=True)
        assert found()[parameter].severity is Severity.OK

    in_fresh_namespace(scenario)


def test_an_interface_without_ipv6_is_named_and_the_command_mends_it() -> None:
    async def scenario() -> None:
        ip("link add deaf.7 type veth peer name ignored")
        conf = Path("/proc/sys/net/ipv6/conf")
        (conf / "ignored" / "disable_ipv6").write_text("1", encoding="ascii")
        assert found()["disable_ipv6"].severity is Severity.OK

        (conf / "deaf.7" / "disable_ipv6").write_text("1", encoding="ascii")
        finding = found()["disable_ipv6"]
        assert finding.severity is Severity.WARNING
        assert "off on deaf.7:" in finding.evidence

        subprocess.run(finding.command, shell=True, check=True, capture_output=True)
        assert found()["disable_ipv6"].severity is Severity.OK

    in_fresh_namespace(scenario)


@pytest.mark.parametrize(
    ("parameter", "wrong", "right", "severity"),
    [
        ("net/ipv4/conf/all/arp_ignore", "0", "1", Severity.NOTE),
        ("net/ipv4/ip_no_pmtu_disc", "1", "0", Severity.WARNING),
    ],
)
def test_a_parameter_of_the_host_is_named_and_the_command_mends_it(
    parameter: str, wrong: str, right: str, severity: Severity
) -> None:
    async def scenario() -> None:
        path = Path("/proc/sys", parameter)
        path.write_text(right, encoding="ascii")
        assert found()[path.name].severity is Severity.OK

        path.write_text(wrong, encoding="ascii")
        finding = found()[path.name]
        assert finding.severity is severity

        subprocess.run(finding.command, shell=True, check=True, capture_output=True)
        assert found()[path.name].severity is Severity.OK

    in_fresh_namespace(scenario)
