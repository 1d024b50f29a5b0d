"""The swanctl connections of our peers: do they fit, has charon loaded them, and what do they protect?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from swanroam.config import FilterMethod, PeerSettings
from swanroam.daemon.connections import CONTROL_CHILD, peer_findings
from swanroam.doctor import remedies
from swanroam.doctor.view import View
from swanroam.ike.associations import Mode
from swanroam.ike.definitions import ChildDefinition, ConnectionDefinition, DefinitionError
from swanroam.kernel.findings import Finding, Severity, ok


def check(view: View) -> list[Finding]:
    """All peers' connections."""
    if view.definitions is None:
        return [_unread(view)]
    found: list[Finding] = []
    for peer in view.config.peers:
        unfit = peer_findings(view.config, peer, view.definitions)
        found += [_with_command(view, finding) for finding in unfit]
        connection = view.connection(peer)
        if connection is not None:
            with suppress(DefinitionError):  # `peer_findings` has told it
                found += _of_connection(view, peer, connection)
        if not unfit:
            found.append(ok("connection", f"{peer.connection} fits peer {peer.identity}"))
    return found


def _unread(view: View) -> Finding:
    check = "swanctl connections"
    if not view.privileged:
        return Finding(check, Severity.UNSEEN, view.definitions_trouble)
    return Finding(check, Severity.ERROR, view.definitions_trouble, "mend what swanctl complains of")


def _with_command(view: View, finding: Finding) -> Finding:
    if finding.check != CONTROL_CHILD:
        return finding
    return replace(finding, remedy="", command=remedies.write_control_children(view))


def _of_connection(view: View, peer: PeerSettings, connection: ConnectionDefinition) -> Iterator[Finding]:
    if view.charon is not None and connection.name not in view.charon.loaded:
        yield Finding(
            "loaded connections",
            Severity.ERROR,
            f"charon has not loaded connection {connection.name}, so it accepts and starts no IKE_SA of it",
            command=remedies.load_connections(view.config),
        )
    yield _uniqueness(view, peer, connection)
    data = {name: child for name, child in connection.children.items() if name != view.config.control.child}
    yield _transport(connection, data)
    yield from (_fixed(connection, child) for child in data.values() if _is_fixed(child))


def _uniqueness(view: View, peer: PeerSettings, connection: ConnectionDefinition) -> Finding:
    check = "unique"
    where = f"connection {connection.name}: unique = {connection.unique}"
    if connection.unique in ("replace", "keep"):
        if peer.filters is FilterMethod.MIGRATE:
            return ok(check, f"{where}, and filters: migrate needs no second IKE_SA")
        return Finding(
            check,
            Severity.ERROR,
            f"{where} forbids the two IKE_SAs side by side that a move needs: old connections would stop in the middle",
            "the peer's connection needs it as well; where it must be so, set filters: migrate",
            remedies.set_in_connection(view.config, connection.name, "unique", "no"),
        )
    if connection.unique == "never":
        return Finding(
            check,
            Severity.NOTE,
            f"{where}: the IKE_SAs of a peer that has crashed stay until dead peer detection ends them",
            "unique = no lets the peer's INITIAL_CONTACT end them, and moves as well",
            remedies.set_in_connection(view.config, connection.name, "unique", "no"),
        )
    return ok(check, where)


def _transport(connection: ConnectionDefinition, data: dict[str, ChildDefinition]) -> Finding:
    """swanroam is for connections between the hosts' own addresses; a tunnel has stable inner ones."""
    check = "transport mode"
    names = [name for name, child in data.items() if child.mode is Mode.TRANSPORT]
    if names:
        return ok(check, f"connection {connection.name}: {', '.join(names)}")
    said = ", ".join(f"{name} in {child.mode.value.lower()} mode" for name, child in data.items()) or "no child"
    return Finding(
        check,
        Severity.WARNING,
        f"connection {connection.name} has no child in transport mode besides the control child ({said}): nothing "
        "protects connections between the two hosts' own addresses, and swanroam has nothing to move",
        f"add under children of {connection.name}: data {{ mode = transport }}; see strongswan-conf/README.md",
    )


def _is_fixed(child: ChildDefinition) -> bool:
    selectors = (*child.local_ts, *child.remote_ts)
    return child.mode is Mode.TRANSPORT and not all(selector.is_dynamic for selector in selectors)


def _fixed(connection: ConnectionDefinition, child: ChildDefinition) -> Finding:
    said = ", ".join(str(ts) for ts in (*child.local_ts, *child.remote_ts) if not ts.is_dynamic)
    return Finding(
        "traffic selectors",
        Severity.ERROR,
        f"connection {connection.name}, child {child.name}: {said} does not follow a change of address, so no filters "
        "for a new one can be made",
        "leave out local_ts and remote_ts, or write dynamic[protocol/port]; then swanctl --load-conns",
    )
