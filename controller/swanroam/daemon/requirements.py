"""What must be there before the daemon starts: privileges, kernel, charon, and connections that fit."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from socket import AF_INET, AF_INET6, AddressFamily

from swanroam.config import Config, FilterMethod, GuardNew, TransportMethod
from swanroam.daemon.translation import carrier_settings
from swanroam.ike.associations import Mode
from swanroam.ike.definitions import ConnectionDefinition, DefinitionError, Definitions, read_definitions
from swanroam.ike.messages import ViciError
from swanroam.ike.selectors import TrafficSelector
from swanroam.ike.vici import ViciClient
from swanroam.kernel.forwarding import forwards
from swanroam.kernel.preflight import Finding, Severity, preflight
from swanroam.kernel.privileges import PURPOSES, Capability, effective
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.migrate import probe_migrate
from swanroam.kernel.xfrm.socket import XfrmSocket

_NO = ("no", "false", "disabled", "0")
"""How swanctl.conf says no (settings_value_as_bool, strongSwan src/libstrongswan/settings/settings.c)."""


class Unmet(enum.Enum):
    """Which kind of requirement is not met."""

    PRIVILEGES = enum.auto()
    KERNEL = enum.auto()
    CHARON = enum.auto()
    CONFIGURATION = enum.auto()


@dataclass(slots=True)
class Requirements:
    """What was found out."""

    unmet: list[tuple[Unmet, str]] = field(default_factory=list)
    """What keeps the daemon from starting, with the remedy; the gravest first."""
    findings: list[Finding] = field(default_factory=list)
    """What does not keep it from starting, but deserves a word."""
    families: tuple[AddressFamily, ...] = ()
    """The address families in which the kernel can do everything."""


def lacking(config: Config, present: Collection[Capability] | None = None) -> str | None:
    """The capabilities that this process lacks, each with what it is for, and the remedy; None when all are there.

    `present`: those that count as there; by default those in force.

    Those for moving sockets count unless all peers have `transport: keep`.
    """
    moving = any(peer.transport is TransportMethod.MOVE for peer in config.peers)
    needed = frozenset(Capability) if moving else {Capability.NET_ADMIN}
    missing = needed - frozenset(effective() if present is None else present)
    if not missing:
        return None
    named = ", ".join(f"{capability} ({purpose})" for capability, purpose in PURPOSES.items() if capability in missing)
    keep = "" if Capability.NET_ADMIN in missing else ", or set transport: keep for all peers"
    return (
        f"privilege: this process lacks {named}: run it as root, or by the unit swanroam.service, which "
        f"gives it that{keep}"
    )


async def check_requirements(config: Config) -> Requirements:
    """Looks at everything; raises nothing."""
    result = Requirements()
    await _check_kernel(config, result)
    if any(what is Unmet.PRIVILEGES for what, _ in result.unmet):
        return result
    await _check_charon(config, result)
    return result


async def _check_kernel(config: Config, result: Requirements) -> None:
    settings = carrier_settings(config)
    failures: list[Finding] = []
    families: list[AddressFamily] = []
    for family in (AF_INET, AF_INET6):
        found = await preflight((family,), settings)
        failed = [finding for finding in found if finding.severity is Severity.FAILURE]
        if any(finding.check == "privilege" for finding in failed):
            result.unmet.append((Unmet.PRIVILEGES, _text(failed[0])))
            return
        if not failed:
            families.append(family)
        failures += failed
        result.findings += [f for f in found if f.severity in (Severity.WARNING, Severity.NOTICE)]
    result.families = tuple(families)
    if families:
        result.findings += failures
    else:
        result.unmet += [(Unmet.KERNEL, _text(finding)) for finding in failures]
        return
    result.findings += _guard_of_new_addresses(config)
    if problem := await migration_problem(config):
        result.unmet.append((Unmet.KERNEL, problem))


async def migration_problem(config: Config) -> str:
    """Why the kernel can't do method migrate, if a peer needs it; empty when it can."""
    if all(peer.filters is not FilterMethod.MIGRATE for peer in config.peers):
        return ""
    try:
        async with XfrmSocket() as xfrm:
            await probe_migrate(xfrm)
    except XfrmError as error:
        return f"{error}; or set filters: renegotiate"
    return ""


def _guard_of_new_addresses(config: Config) -> list[Finding]:
    """What a host that forwards, a gateway or one with containers, has to decide for itself."""
    if config.addresses.guard_new is not GuardNew.AUTO or not any(peer.moves.we_may for peer in config.peers):
        return []
    forwarding = [f"IPv{version}" for version in (4, 6) if forwards(version)]
    if not forwarding:
        return []
    return [
        Finding(
            "addresses.guard_new",
            Severity.NOTICE,
            f"this host forwards {' and '.join(forwarding)}, so a new address is guarded only some milliseconds after "
            "the kernel has it; until then a UDP server without an address of its own may send in clear from it",
            "set it to always if nothing that this host forwards goes to a peer, or to never if that is known and fine",
        )
    ]


async def _check_charon(config: Config, result: Requirements) -> None:
    try:
        async with ViciClient(config.vici_socket) as client:
            await client.request("version")
    except ViciError as error:
        result.unmet.append((Unmet.CHARON, str(error)))
    try:
        definitions = await read_definitions(swanctl=config.swanctl, file=config.swanctl_file)
    except DefinitionError as error:
        result.unmet.append((Unmet.CONFIGURATION, str(error)))
        return
    result.unmet += [(Unmet.CONFIGURATION, problem) for problem in connection_problems(config, definitions)]


def connection_problems(config: Config, definitions: Definitions) -> list[str]:
    """What the swanctl connections lack for our configuration, each with the remedy."""
    problems: list[str] = []
    for peer in config.peers:
        try:
            connection = definitions.connection(peer.connection)
            if not connection.accepts_identity(peer.identity):
                problems.append(
                    f"peer {peer.identity}: its connection {peer.connection} is for "
                    f"{', '.join(connection.remote_ids)}: mend `identity` or `connection`"
                )
            if not connection.sends_identity(config.identity):
                problems.append(
                    f"peer {peer.identity}: in its connection {peer.connection} we are "
                    f"{', '.join(connection.local_ids)}, and `identity` is {config.identity}: mend one of them"
                )
            problems += [
                f"peer {peer.identity}: connection {connection.name} has no child {name}: mend `children`"
                for name in peer.children or ()
                if name not in connection.children
            ]
            problems += [
                f"connection {connection.name}, child {name}: with policies = no charon would install nothing that "
                "protects a new address, and swanroam could not check it: remove that line"
                for name in peer.children or connection.children
                if _option(connection, name, "policies") in _NO
            ]
            problems += _control_child_problems(config, connection, peer.control_address)
        except DefinitionError as error:
            problems.append(f"peer {peer.identity}: {error}")
    return problems


def _control_child_problems(config: Config, connection: ConnectionDefinition, remote: IPv6Address) -> list[str]:
    name = config.control.child
    where = f"connection {connection.name}, child {name}"
    remedy = "`swanroam check-config` prints how it must be"
    child = connection.children.get(name)
    if child is None:
        return [f"connection {connection.name} has no control child {name}: {remedy}"]
    problems: list[str] = []
    if child.mode is not Mode.TUNNEL:
        problems.append(f"{where}: it must be in tunnel mode: {remedy}")
    for side, selectors, address in (
        ("local_ts", child.local_ts, config.control.address),
        ("remote_ts", child.remote_ts, remote),
    ):
        if not any(_contains(selector, address) for selector in selectors):
            said = ", ".join(map(str, selectors))
            problems.append(f"{where}: {side} is {said} and must have {address}: {remedy}")
    mark = _option(connection, name, "set_mark_out")
    if _number(mark) != config.control.mark:
        said = f"is {mark}" if mark else "is missing"
        problems.append(
            f"{where}: set_mark_out {said} and must be {config.control.mark:#x}, or acknowledgments do not find "
            f"the way to a new address: {remedy}"
        )
    return problems


def _contains(selector: TrafficSelector, address: IPv6Address) -> bool:
    start, end = selector.start, selector.end
    return isinstance(start, IPv6Address) and isinstance(end, IPv6Address) and start <= address <= end


def _option(connection: ConnectionDefinition, child: str, option: str) -> str:
    """An option of a child as swanctl sends it; empty when it is not set."""
    children = connection.message.get("children")
    section = children.get(child) if isinstance(children, dict) else None
    value = section.get(option, b"") if isinstance(section, dict) else b""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _number(text: str) -> int | None:
    try:
        return int(text.partition("/")[0], 0)
    except ValueError:
        return None


def _text(finding: Finding) -> str:
    return f"{finding.check}: {finding.what}" + (f": {finding.remedy}" if finding.remedy else "")
