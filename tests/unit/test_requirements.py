"""What must be there before the daemon starts, and what is said when it is not: the thing, and the remedy."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from socket import AF_INET, AF_INET6, AddressFamily

import pytest

from swanroam.config import Config, parse_config
from swanroam.daemon import requirements
from swanroam.daemon.connections import connection_findings
from swanroam.daemon.requirements import Requirements, Unmet, check_requirements, lacking
from swanroam.ike.definitions import Definitions, read_definitions
from swanroam.kernel.findings import Finding, Severity
from swanroam.kernel.preflight import MIGRATION
from swanroam.kernel.privileges import Capability
from unit.vici_server import Script, response, serving

OURS, ITS = "mobile.example.org", "peer.example.org"
CONNECTION = """
connections {
    server {
        remote_addrs = 10.3.3.2
        local { id = mobile.example.org }
        remote { id = peer.example.org }
        children {
            data {
                mode = transport
            }
            swanroam {
                mode = tunnel
                local_ts = fd53:7761:6e72:6d76:8185:b065:b090:508/128
                remote_ts = {remote}/128
                set_mark_out = 0x5353
            }
        }
    }
}
"""


def config(directory: Path, peer: str = "", more: str = "") -> Config:
    return parse_config(
        f"""\
identity: {OURS}
vici_socket: {directory}/charon.vici
swanctl_file: {directory}/swanctl.conf
state_directory: {directory}/state
runtime_directory: {directory}/run
{more}
peers:
  - identity: {ITS}
    connection: server
    {peer}
"""
    )


def write(settings: Config, *changes: tuple[str, str]) -> None:
    """The right connection for these settings, with texts replaced."""
    text = CONNECTION.replace("{remote}", str(settings.peers[0].control_address))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    assert settings.swanctl_file is not None
    settings.swanctl_file.write_text(text)


def definitions(settings: Config) -> Definitions:
    return asyncio.run(read_definitions(swanctl=settings.swanctl, file=settings.swanctl_file))


def connection_problems(settings: Config) -> list[str]:
    found = connection_findings(settings, definitions(settings))
    return [f"{finding.evidence}: {finding.mend}" for finding in found]


def test_a_connection_as_check_config_prints_it_has_no_problem(tmp_path: Path) -> None:
    settings = config(tmp_path)
    write(settings)

    assert connection_problems(settings) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            (("server {", "sever {"),),
            "peer peer.example.org: swanctl's configuration has no connection server (did you mean sever?)",
        ),
        (
            (("id = peer.example.org", "id = other.example.org"),),
            "its connection server is for other.example.org: mend `identity` or `connection`",
        ),
        (
            (("id = mobile.example.org", "id = laptop.example.org"),),
            "in its connection server we are laptop.example.org, and `identity` is mobile.example.org: mend one",
        ),
        (
            (("swanroam {", "control {"),),
            "connection server has no control child swanroam: `swanroam check-config` prints how it must be",
        ),
        (
            (("mode = tunnel", "mode = transport"),),
            "connection server, child swanroam: it must be in tunnel mode",
        ),
        (
            (("set_mark_out = 0x5353", ""),),
            "connection server, child swanroam: set_mark_out is missing and must be 0x5353",
        ),
        (
            (("set_mark_out = 0x5353", "set_mark_out = 7"),),
            "connection server, child swanroam: set_mark_out is 7 and must be 0x5353",
        ),
        (
            (("local_ts = fd53:7761:6e72:6d76:8185:b065:b090:508/128", "local_ts = fd53:7761:6e72::1/128"),),
            "connection server, child swanroam: local_ts is fd53:7761:6e72::1/128 and must have fd53:7761:6e72:6d76",
        ),
        (
            (("local_ts = fd53:7761:6e72:6d76:8185:b065:b090:508/128", ""),),
            "connection server, child swanroam: local_ts is dynamic and must have fd53:7761:6e72:6d76",
        ),
        (
            (("local_ts = fd53:7761:6e72:6d76:8185:b065:b090:508/128", "local_ts = not an address"),),
            "peer peer.example.org: child swanroam of connection server: ",
        ),
        (
            (("mode = transport", "mode = transport\n                policies = no"),),
            "connection server, child data: with policies = no charon would install nothing that protects",
        ),
    ],
)
def test_what_a_connection_lacks_is_told_with_the_remedy(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], expected: str
) -> None:
    settings = config(tmp_path)
    write(settings, *changes)

    (problem,) = connection_problems(settings)

    assert expected in problem


def test_children_that_do_not_exist_are_named(tmp_path: Path) -> None:
    settings = config(tmp_path, "children: [data, voice]")
    write(settings)

    assert connection_problems(settings) == [
        "peer peer.example.org: connection server has no child voice: mend `children`"
    ]


@pytest.mark.parametrize("written", ["@peer.example.org", "fqdn:peer.example.org", '"*.example.org"', "%any"])
def test_an_identity_may_be_written_in_any_of_swanctls_ways(tmp_path: Path, written: str) -> None:
    settings = config(tmp_path)
    write(settings, ("id = peer.example.org", f"id = {written}"))

    assert connection_problems(settings) == []


@pytest.mark.parametrize("mark", ["21331", "0x5353/0xffffffff"])
def test_a_mark_may_be_written_in_any_of_swanctls_ways(tmp_path: Path, mark: str) -> None:
    settings = config(tmp_path)
    write(settings, ("set_mark_out = 0x5353", f"set_mark_out = {mark}"))

    assert connection_problems(settings) == []


# --- all of it ----------------------------------------------------------------------------------------------------


def checked(settings: Config, *scripts: Script) -> Requirements:
    async def check() -> Requirements:
        async with AsyncExitStack() as stack:
            if scripts:
                await stack.enter_async_context(serving(settings.vici_socket, *scripts))
            return await check_requirements(settings)

    return asyncio.run(check())


def kernel_says(monkeypatch: pytest.MonkeyPatch, *parameters: Finding, **failing: Finding) -> None:
    """What the kernel's trials find, by family; nothing wrong in those not named. `parameters`: how it is set."""

    async def preflight(families: Collection[AddressFamily], settings: object) -> list[Finding]:
        found = [failing[family.name] for family in families if family.name in failing]
        return found or [Finding("everything", Severity.OK, "is there")]

    monkeypatch.setattr(requirements, "preflight", preflight)
    monkeypatch.setattr(requirements, "forwards", lambda version: False)
    monkeypatch.setattr(requirements, "packet_parameters", lambda counts: parameters)
    monkeypatch.setattr(requirements, "tracing", lambda: Finding("ptrace_scope", Severity.OK, "is fine"))


NO_ESP = Finding("ESP for IPv4", Severity.ERROR, "the kernel has no ESP for IPv4", "modprobe esp4")
NO_ESP6 = Finding("ESP for IPv6", Severity.ERROR, "the kernel has no ESP for IPv6", "modprobe esp6")
NO_RIGHTS = Finding("privilege", Severity.ERROR, "this process lacks CAP_NET_ADMIN", "run it as root")


async def version(peer: object) -> None:
    await peer.serve("version", response(daemon="charon", version="5.9.8"))  # type: ignore[attr-defined]


def test_a_host_with_everything_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_says(monkeypatch)
    settings = config(tmp_path)
    write(settings)

    found = checked(settings, version)

    assert found.unmet == []
    assert found.families == (AF_INET, AF_INET6)


def test_without_privileges_nothing_else_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_says(monkeypatch, AF_INET=NO_RIGHTS, AF_INET6=NO_RIGHTS)

    assert checked(config(tmp_path)).unmet == [
        (Unmet.PRIVILEGES, "privilege: this process lacks CAP_NET_ADMIN: run it as root")
    ]


@pytest.mark.parametrize(
    ("more", "has", "named"),
    [
        ("", set(Capability), ()),
        ("", set(Capability) - {Capability.NET_RAW}, ("CAP_NET_RAW",)),
        ("", set(), [str(capability) for capability in Capability]),
        ("defaults: {transport: keep}", {Capability.NET_ADMIN}, ()),
        ("defaults: {transport: keep}", set(Capability) - {Capability.NET_ADMIN}, ("CAP_NET_ADMIN",)),
    ],
    ids=["all", "one missing", "none", "keep", "keep and none"],
)
def test_every_capability_that_is_needed_and_missing_is_named_with_its_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, has: set[Capability], named: Collection[str]
) -> None:
    monkeypatch.setattr(requirements, "effective", lambda: frozenset(has))

    said = lacking(config(tmp_path, more=more)) or ""

    assert {name for name in map(str, Capability) if f"{name} (" in said} == set(named)
    assert ("transport: keep" in said) == (named == ("CAP_NET_RAW",))


def test_a_kernel_that_lacks_something_in_both_families_is_named_first_then_charon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_says(monkeypatch, AF_INET=NO_ESP, AF_INET6=NO_ESP6)
    settings = config(tmp_path)
    write(settings)

    found = checked(settings)

    assert [what for what, _ in found.unmet] == [Unmet.KERNEL, Unmet.KERNEL, Unmet.CHARON]
    assert found.unmet[0][1] == "ESP for IPv4: the kernel has no ESP for IPv4: modprobe esp4"


def test_one_family_is_enough_and_the_other_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_says(monkeypatch, AF_INET6=NO_ESP6)
    settings = config(tmp_path)
    write(settings)

    found = checked(settings, version)

    assert found.unmet == []
    assert found.families == (AF_INET,)
    assert found.findings == [replace(NO_ESP6, severity=Severity.WARNING)]


def test_what_both_families_have_in_common_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnel = Finding("fallback tunnels", Severity.WARNING, "tunl0 is up", command="ip link set tunl0 down")
    kernel_says(monkeypatch, AF_INET=tunnel, AF_INET6=tunnel)
    settings = config(tmp_path)
    write(settings)

    assert checked(settings, version).findings == [tunnel]


STRICT = Finding("rp_filter", Severity.WARNING, "rp_filter is strict on eth0")


@pytest.mark.parametrize(("peer", "severity"), [("", Severity.WARNING), ("moves: peer", Severity.NOTE)])
def test_strict_reverse_path_filters_matter_where_addresses_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str, severity: Severity
) -> None:
    kernel_says(monkeypatch, STRICT)
    settings = config(tmp_path, peer)
    write(settings)

    assert checked(settings, version).findings == [replace(STRICT, severity=severity)]


def test_programs_that_nobody_may_stop_keep_the_daemon_from_starting_unless_sockets_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_says(monkeypatch)
    untraceable = Finding("ptrace_scope", Severity.ERROR, "nobody may stop a program", "reboot")
    monkeypatch.setattr(requirements, "tracing", lambda: untraceable)
    for more, unmet in (("", [(Unmet.KERNEL, str(untraceable))]), ("defaults: {transport: keep}", [])):
        settings = config(tmp_path, more=more)
        write(settings)

        assert checked(settings, version).unmet == unmet


@pytest.mark.parametrize(
    ("peer", "more", "told"),
    [
        ("", "", True),
        ("moves: peer", "", False),
        ("", "addresses: {guard_new: always}", False),
        ("", "addresses: {guard_new: never}", False),
    ],
)
def test_a_host_that_forwards_is_told_that_new_addresses_are_guarded_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str, more: str, told: bool
) -> None:
    kernel_says(monkeypatch)
    monkeypatch.setattr(requirements, "forwards", lambda version: version == 4)
    settings = config(tmp_path, peer, more)
    write(settings)

    found = checked(settings, version)

    assert found.unmet == []
    assert [finding.check for finding in found.findings] == ["addresses.guard_new"] * told
    assert all("this host forwards IPv4, so" in finding.evidence for finding in found.findings)


@pytest.mark.parametrize(
    ("peer", "more"), [("filters: migrate", ""), ("", "defaults: {filters: migrate}")], ids=["peer", "defaults"]
)
def test_migrate_needs_a_kernel_that_migrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str, more: str
) -> None:
    lack = Finding(MIGRATION, Severity.WARNING, "the kernel needs CONFIG_XFRM_MIGRATE=y", "use renegotiate")
    kernel_says(monkeypatch, AF_INET=lack)
    settings = config(tmp_path, peer, more)
    write(settings)

    ((what, text),) = checked(settings, version).unmet

    assert what is Unmet.KERNEL
    assert text == f"{MIGRATION}: the kernel needs CONFIG_XFRM_MIGRATE=y: set filters: renegotiate"


def test_a_vici_socket_that_is_not_there_is_charons_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_says(monkeypatch)
    settings = config(tmp_path)
    write(settings)

    ((what, text),) = checked(settings).unmet

    assert what is Unmet.CHARON
    assert text == (
        f"charon's VICI socket {settings.vici_socket} does not exist: "
        "start strongSwan (systemctl start strongswan) or set vici_socket"
    )


def test_connections_that_cannot_be_read_are_a_matter_of_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_says(monkeypatch)
    settings = config(tmp_path)

    ((what, text),) = checked(settings, version).unmet

    assert what is Unmet.CONFIGURATION
    assert "swanctl.conf" in text
    assert "Try `swanctl --load-conns` by hand" in text


def test_a_program_that_is_not_there_is_a_matter_of_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_says(monkeypatch)
    settings = config(tmp_path, more=f"swanctl: {tmp_path}/no-swanctl")
    write(settings)

    ((what, text),) = checked(settings, version).unmet

    assert what is Unmet.CONFIGURATION
    assert f"{tmp_path}/no-swanctl" in text
    assert "swanctl" in text.partition(":")[2]
