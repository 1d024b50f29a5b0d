"""What the administrator's swanctl connections must have for our configuration."""

from __future__ import annotations

from ipaddress import IPv6Address

from swanroam.config import Config, PeerSettings
from swanroam.ike.associations import Mode
from swanroam.ike.definitions import NO, ConnectionDefinition, DefinitionError, Definitions
from swanroam.ike.selectors import TrafficSelector
from swanroam.kernel.findings import Finding, Severity

CONNECTION, CONTROL_CHILD, CHILDREN = "connection", "control child", "children"
"""What is looked at, as findings name it."""


def connection_findings(config: Config, definitions: Definitions) -> list[Finding]:
    """What the swanctl connections lack, each with the remedy; nothing where they have all."""
    return [finding for peer in config.peers for finding in peer_findings(config, peer, definitions)]


def peer_findings(config: Config, peer: PeerSettings, definitions: Definitions) -> list[Finding]:
    """The same for one peer."""
    try:
        connection = definitions.connection(peer.connection)
        found = [*_identities(config, peer, connection), *_children(peer, connection)]
        return [*found, *_control_child(config, connection, peer.control_address)]
    except DefinitionError as error:
        return [Finding(CONNECTION, Severity.ERROR, f"peer {peer.identity}: {error}", "mend it in swanctl.conf")]


def _identities(config: Config, peer: PeerSettings, connection: ConnectionDefinition) -> list[Finding]:
    found: list[Finding] = []
    if not connection.accepts_identity(peer.identity):
        said = f"its connection {peer.connection} is for {', '.join(connection.remote_ids)}"
        found.append(_error(CONNECTION, f"peer {peer.identity}: {said}", "mend `identity` or `connection`"))
    if not connection.sends_identity(config.identity):
        said = f"in its connection {peer.connection} we are {', '.join(connection.local_ids)}"
        evidence = f"peer {peer.identity}: {said}, and `identity` is {config.identity}"
        found.append(_error(CONNECTION, evidence, "mend one of them"))
    return found


def _children(peer: PeerSettings, connection: ConnectionDefinition) -> list[Finding]:
    found = [
        _error(CHILDREN, f"peer {peer.identity}: connection {connection.name} has no child {name}", "mend `children`")
        for name in peer.children or ()
        if name not in connection.children
    ]
    found += [
        _error(
            CHILDREN,
            f"connection {connection.name}, child {name}: with policies = no charon would install nothing that "
            "protects a new address, and swanroam could not check it",
            "remove that line",
        )
        for name in peer.children or connection.children
        if connection.child_option(name, "policies") in NO
    ]
    return found


def _control_child(config: Config, connection: ConnectionDefinition, remote: IPv6Address) -> list[Finding]:
    name = config.control.child
    where = f"connection {connection.name}, child {name}"
    child = connection.children.get(name)
    if child is None:
        return [_unfit(f"connection {connection.name} has no control child {name}")]
    found: list[Finding] = []
    if child.mode is not Mode.TUNNEL:
        found.append(_unfit(f"{where}: it must be in tunnel mode"))
    for side, selectors, address in (
        ("local_ts", child.local_ts, config.control.address),
        ("remote_ts", child.remote_ts, remote),
    ):
        if not any(_contains(selector, address) for selector in selectors):
            said = ", ".join(map(str, selectors))
            found.append(_unfit(f"{where}: {side} is {said} and must have {address}"))
    mark = connection.child_option(name, "set_mark_out")
    if _number(mark) != config.control.mark:
        said = f"is {mark}" if mark else "is missing"
        found.append(
            _unfit(
                f"{where}: set_mark_out {said} and must be {config.control.mark:#x}, or acknowledgments do not find "
                "the way to a new address"
            )
        )
    return found


def _error(check: str, evidence: str, remedy: str) -> Finding:
    return Finding(check, Severity.ERROR, evidence, remedy)


def _unfit(evidence: str) -> Finding:
    return _error(CONTROL_CHILD, evidence, "`swanroam check-config` prints how it must be")


def _contains(selector: TrafficSelector, address: IPv6Address) -> bool:
    start, end = selector.start, selector.end
    return isinstance(start, IPv6Address) and isinstance(end, IPv6Address) and start <= address <= end


def _number(text: str) -> int | None:
    try:
        return int(text.partition("/")[0], 0)
    except ValueError:
        return None
