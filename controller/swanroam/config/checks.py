"""What no single value can tell: duplicates, overlaps and contradictions. Runs on whatever could be read."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from swanroam.config.kinds import render_duration
from swanroam.config.model import (
    DEFAULT_CHILD,
    DEFAULT_PORT,
    DEFAULT_PREFIX,
    CarrierSettings,
    IPAddress,
    IPNetwork,
    Moves,
    TimingSettings,
)
from swanroam.config.problems import Problems
from swanroam.config.section import Values
from swanroam.inner_address import LONGEST_PREFIX, SHORTEST_PREFIX, inner_address

RESERVED_TABLES = {
    220: "the table that charon puts its own routes into (charon.routing_table)",
    253: "the kernel's table 'default'",
    254: "the kernel's table 'main'",
    255: "the kernel's table 'local'",
}

IKE_PORTS = (500, 4500)


def check(root: Values, problems: Problems) -> None:
    """Report every contradiction between values."""
    _check_control(root, problems)
    _check_carrier(root, problems)
    _check_addresses(root, problems)
    _check_timing(root, problems)
    _check_repeated(root.section("sockets"), "exclude_processes", problems)
    _check_peers(root, problems)


def control_prefix(root: Values) -> IPv6Network:
    """The prefix of inner addresses; the default where the file's own cannot be used."""
    prefix = root.section("control").values.get("prefix")
    if isinstance(prefix, IPv6Network) and SHORTEST_PREFIX <= prefix.prefixlen <= LONGEST_PREFIX:
        return prefix
    return DEFAULT_PREFIX


def _check_control(root: Values, problems: Problems) -> None:
    control = root.section("control")
    if control.values.get("port") in IKE_PORTS:
        problems.add(
            control.place_of("port"),
            control.path_of("port"),
            f"is {control.values['port']}, the port of IKE; write another, such as {DEFAULT_PORT}",
        )
    prefix = control.values.get("prefix")
    if not isinstance(prefix, IPv6Network):
        return
    place, path = control.place_of("prefix"), control.path_of("prefix")
    if not SHORTEST_PREFIX <= prefix.prefixlen <= LONGEST_PREFIX:
        problems.add(
            place,
            path,
            f"is {prefix}; inner addresses need a prefix of /{SHORTEST_PREFIX} to /{LONGEST_PREFIX}, "
            f"such as {DEFAULT_PREFIX}",
        )
    elif _unsuitable(prefix):
        problems.add(place, path, f"is {prefix}, where no host can have an address; write one such as {DEFAULT_PREFIX}")


def _unsuitable(prefix: IPv6Network) -> bool:
    """Whether the prefix touches loopback, v4-mapped, link-local or multicast space."""
    unusable = (IPv6Network("::/8"), IPv6Network("fe80::/10"), IPv6Network("ff00::/8"))
    return any(prefix.overlaps(network) for network in unusable)


def _check_carrier(root: Values, problems: Problems) -> None:
    carrier = root.section("carrier")
    table = carrier.values.get("table")
    if not isinstance(table, int):
        return
    taken = next((number for number in range(table, table + 3) if number in RESERVED_TABLES), None)  # see the schema
    if taken is not None:
        what = f"{taken}" if taken == table else f"{table}, and {taken} is needed too"
        problems.add(
            carrier.place_of("table"),
            carrier.path_of("table"),
            f"is {what}, {RESERVED_TABLES[taken]}; "
            f"write a number that nothing else uses, such as {CarrierSettings().table}",
        )


def _check_addresses(root: Values, problems: Problems) -> None:
    addresses = root.section("addresses")
    if "lo" in _texts(addresses, "interfaces"):
        problems.add(
            addresses.place_of("interfaces"),
            addresses.path_of("interfaces"),
            "names 'lo', whose addresses no other host can reach; remove it",
        )
    _check_repeated(addresses, "interfaces", problems)
    _check_repeated(addresses, "prefer", problems)


def _check_repeated(values: Values, key: str, problems: Problems) -> None:
    texts = _texts(values, key)
    for text in sorted({text for text in texts if texts.count(text) > 1}):
        problems.add(values.place_of(key), values.path_of(key), f"names '{text}' twice; remove one of them")


def _texts(values: Values, key: str) -> tuple[str, ...]:
    value = values.values.get(key, ())
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, tuple) else ()


def _check_timing(root: Values, problems: Problems) -> None:
    timing = root.section("timing")
    defaults = TimingSettings()
    first = timing.values.get("first_retransmit", defaults.first_retransmit)
    give_up = timing.values.get("give_up", defaults.give_up)
    if isinstance(first, float) and isinstance(give_up, float) and give_up < 2 * first:
        key = "give_up" if "give_up" in timing.values else "first_retransmit"
        problems.add(
            timing.place_of(key),
            timing.path_of(key),
            f"leaves no time for a retransmission: first_retransmit is {render_duration(first)} and give_up "
            f"{render_duration(give_up)}; make give_up at least {render_duration(2 * first)}",
        )


def _check_peers(root: Values, problems: Problems) -> None:
    peers = root.sections("peers")
    own = root.values.get("identity")
    child = root.section("control").values.get("child", DEFAULT_CHILD)
    for peer in peers:
        if own is not None and peer.values.get("identity") == own:
            problems.add(
                peer.place_of("identity"),
                peer.path_of("identity"),
                f"is '{own}', this host's own identity; write the identity that the peer authenticates with",
            )
        _check_repeated(peer, "children", problems)
        if child in _texts(peer, "children"):
            problems.add(
                peer.place_of("children"),
                peer.path_of("children"),
                f"names '{child}', the child of the control channel, which moves by itself; remove it",
            )
        allow = peer.values.get("allow")
        _check_allow(peer, allow, problems)
        _check_fallback(root, peer, problems)
    _check_allow(root.section("defaults"), root.section("defaults").values.get("allow"), problems)
    _check_unique(peers, "identity", problems)
    _check_names(peers, problems)
    _check_inner_addresses(root, peers, problems)


def _check_allow(values: Values, allow: object, problems: Problems) -> None:
    for network in allow if isinstance(allow, tuple) else ():
        if _never_reachable(network):
            problems.add(
                values.place_of("allow"),
                values.path_of("allow"),
                f"contains {network}, where no peer can be reached; remove it",
            )


def _check_fallback(root: Values, peer: Values, problems: Problems) -> None:
    hosts = peer.values.get("fallback", ())
    if not isinstance(hosts, tuple):
        return
    place, path = peer.place_of("fallback"), peer.path_of("fallback")
    if hosts and peer.values.get("moves", root.section("defaults").values.get("moves")) is Moves.PEER:
        problems.add(place, path, "is only used by a host that may move, and moves is 'peer'; remove one of them")
    for host in sorted({str(host) for host in hosts if hosts.count(host) > 1}):
        problems.add(place, path, f"names '{host}' twice; remove one of them")
    for host in hosts:
        if isinstance(host, IPv4Address | IPv6Address) and (_never_reachable(host) or host.is_unspecified):
            problems.add(place, path, f"contains {host}, where no peer can be reached; remove it")


def _never_reachable(network: IPNetwork | IPAddress) -> bool:
    """IPv4 link-local is for who wants it. For IPv6 neither messages nor carriers tell which link is meant."""
    link_local = network.version == 6 and network.is_link_local
    return network.is_loopback or link_local or network.is_multicast


def _check_unique(peers: tuple[Values, ...], key: str, problems: Problems) -> None:
    first: dict[object, Values] = {}
    for peer in peers:
        value = peer.values.get(key)
        if value is None:
            continue
        other = first.setdefault(value, peer)
        if other is not peer:
            problems.add(
                peer.place_of(key),
                peer.path_of(key),
                f"is '{value}', as on line {other.place_of(key).line}; every peer needs its own, remove one of them",
            )


def _check_names(peers: tuple[Values, ...], problems: Problems) -> None:
    """Names and identities share one space: `status` and `move` take either."""
    identities = {peer.values["identity"]: peer for peer in peers if "identity" in peer.values}
    for peer in peers:
        name = peer.values.get("name")
        owner = identities.get(name)
        if name is not None and owner is not None and owner is not peer:
            problems.add(
                peer.place_of("name"),
                peer.path_of("name"),
                f"is '{name}', the identity of the peer on line {owner.place.line}; write another name",
            )
    _check_unique(peers, "name", problems)


def _check_inner_addresses(root: Values, peers: tuple[Values, ...], problems: Problems) -> None:
    prefix = control_prefix(root)
    owners: dict[IPv6Address, str] = {}
    for values, key, who in _hosts(root, peers):
        given = values.values.get(key)
        identity = values.values.get("identity")
        if isinstance(given, IPv6Address):
            address = given
            if given not in prefix:
                problems.add(
                    values.place_of(key),
                    values.path_of(key),
                    f"is {given}, outside control.prefix {prefix}, and so would not be kept from leaving in clear; "
                    "write an address inside it",
                )
        elif isinstance(identity, str):
            address = inner_address(identity, prefix)
        else:
            continue
        other = owners.setdefault(address, who)
        if other != who:
            at = key if key in values.values else "identity"
            problems.add(
                values.place_of(at),
                values.path_of(at),
                f"gives {who} the inner address {address}, which {other} has too; write another {key}",
            )


def _hosts(root: Values, peers: tuple[Values, ...]) -> Iterator[tuple[Values, str, str]]:
    """Every host with an inner address: where it is written, under which key an override stands, and its name.

    Two peers with one identity are left to the check for that.
    """
    own = Values(root.place, "", dict(root.section("control").values), dict(root.section("control").places))
    own.path = "control"
    if "identity" in root.values:
        own.values["identity"] = root.values["identity"]
        own.places["identity"] = root.place_of("identity")
    yield own, "address", "this host"
    seen = {root.values.get("identity")}
    for peer in peers:
        identity = peer.values.get("identity")
        if identity is not None and identity in seen:
            continue
        seen.add(identity)
        yield peer, "control_address", f"the peer on line {peer.place.line}"
