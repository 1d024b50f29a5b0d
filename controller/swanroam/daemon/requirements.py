"""What must be there before the daemon starts: privileges, kernel, charon, and connections that fit."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from socket import AF_INET, AF_INET6, AddressFamily

from swanroam.config import Config, FilterMethod, GuardNew, TransportMethod
from swanroam.daemon.connections import connection_findings
from swanroam.daemon.translation import carrier_settings
from swanroam.ike.definitions import DefinitionError, Definitions, read_definitions
from swanroam.ike.messages import ViciError
from swanroam.ike.vici import ViciClient
from swanroam.kernel.addresses import AddressSelection
from swanroam.kernel.findings import Finding, Severity
from swanroam.kernel.forwarding import forwards
from swanroam.kernel.preflight import MIGRATION, PRIVILEGE, migration, preflight
from swanroam.kernel.privileges import PURPOSES, Capability, effective
from swanroam.kernel.sysctls import packet_parameters, tracing
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.socket import XfrmSocket

RENEGOTIATE = "set filters: renegotiate"
"""Remedy where the kernel can't do method migrate."""


class Unmet(enum.Enum):
    """Which kind of requirement is not met."""

    PRIVILEGES = enum.auto()
    KERNEL = enum.auto()
    CHARON = enum.auto()
    CONFIGURATION = enum.auto()


@dataclass(frozen=True, slots=True)
class KernelFindings:
    """What this kernel can do, and how it is set."""

    families: tuple[AddressFamily, ...]
    """The address families in which it can do everything."""
    findings: tuple[Finding, ...]
    """All of them, each once. There is an error among them when the daemon cannot start."""


@dataclass(slots=True)
class Requirements:
    """What was found out."""

    unmet: list[tuple[Unmet, str]] = field(default_factory=list)
    """What keeps the daemon from starting, with the remedy; the gravest first."""
    findings: list[Finding] = field(default_factory=list)
    """What does not keep it from starting, but deserves a word."""
    families: tuple[AddressFamily, ...] = ()
    """The address families in which the kernel can do everything."""


def needed_capabilities(config: Config) -> frozenset[Capability]:
    """What the daemon and the process that moves sockets need together."""
    return frozenset(Capability) if _moves_sockets(config) else frozenset({Capability.NET_ADMIN})


def _moves_sockets(config: Config) -> bool:
    return any(peer.transport is TransportMethod.MOVE for peer in config.peers)


def lacking(config: Config, present: Collection[Capability] | None = None) -> str | None:
    """The capabilities that this process lacks, each with what it is for, and the remedy; None when all are there.

    `present`: those that count as there; by default those in force.

    Those for moving sockets count unless all peers have `transport: keep`.
    """
    missing = needed_capabilities(config) - frozenset(effective() if present is None else present)
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
    kernel = await kernel_findings(config)
    result.families = kernel.families
    for finding in kernel.findings:
        if finding.severity is Severity.ERROR:
            what = Unmet.PRIVILEGES if finding.check == PRIVILEGE else Unmet.KERNEL
            result.unmet.append((what, str(finding)))
        elif finding.severity is not Severity.OK:
            result.findings.append(finding)
    if not any(what is Unmet.PRIVILEGES for what, _ in result.unmet):
        await _check_charon(config, result)
    return result


async def kernel_findings(config: Config) -> KernelFindings:
    """Tries everything that the kernel must be able to do, and reads how it is set."""
    settings = carrier_settings(config)
    found: list[Finding] = []
    failed: list[Finding] = []
    families: list[AddressFamily] = []
    for family in (AF_INET, AF_INET6):
        of_family = await preflight((family,), settings)
        failures = [finding for finding in of_family if finding.severity is Severity.ERROR]
        if any(finding.check == PRIVILEGE for finding in failures):
            return KernelFindings((), tuple(failures[:1]))
        if not failures:
            families.append(family)
        failed += failures
        found += [_as_needed(config, finding) for finding in of_family if finding not in failures]
    if families:  # one is enough to work
        failed = [replace(finding, severity=Severity.WARNING) for finding in failed]
    found += failed
    found += parameter_findings(config)
    return KernelFindings(tuple(families), tuple(dict.fromkeys(found)))


async def migration_problem(config: Config) -> str:
    """Why the kernel can't do method migrate, if a peer needs it; empty when it can."""
    if not _migrates(config):
        return ""
    try:
        async with XfrmSocket() as xfrm:
            found = await migration(xfrm)
    except XfrmError as error:
        return f"{error}; or {RENEGOTIATE}"
    return "" if found.severity is Severity.OK else f"{found.evidence}; or {RENEGOTIATE}"


def _migrates(config: Config) -> bool:
    return any(peer.filters is FilterMethod.MIGRATE for peer in config.peers)


def _as_needed(config: Config, finding: Finding) -> Finding:
    if finding.check != MIGRATION or finding.severity is Severity.OK or not _migrates(config):
        return finding
    return replace(finding, severity=Severity.ERROR, remedy=RENEGOTIATE)


def parameter_findings(config: Config) -> list[Finding]:
    """How the kernel is set; needs no privileges."""
    addresses = config.addresses
    selection = AddressSelection(addresses.interfaces, addresses.ignore_interfaces, addresses.ignore)
    found = [
        # Packets to an old address come to the host that moves.
        replace(finding, severity=Severity.NOTE)
        if finding.check == "rp_filter" and finding.severity is Severity.WARNING and not _we_move(config)
        else finding
        for finding in packet_parameters(selection.counts_interface)
    ]
    return [*found, *([tracing()] if _moves_sockets(config) else []), *_guard_of_new_addresses(config)]


def _we_move(config: Config) -> bool:
    return any(peer.moves.we_may for peer in config.peers)


def _guard_of_new_addresses(config: Config) -> list[Finding]:
    """What a host that forwards, a gateway or one with containers, has to decide for itself."""
    if config.addresses.guard_new is not GuardNew.AUTO or not _we_move(config):
        return []
    forwarding = [f"IPv{version}" for version in (4, 6) if forwards(version)]
    if not forwarding:
        return []
    return [
        Finding(
            "addresses.guard_new",
            Severity.NOTE,
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
    return [f"{finding.evidence}: {finding.mend}" for finding in connection_findings(config, definitions)]
