"""Which keys the configuration file has, and what each takes. Defaults: model.py. Meanings: meanings.py."""

from __future__ import annotations

from swanroam.config.kinds import (
    AbsolutePath,
    Address,
    Choice,
    Duration,
    HostName,
    Integer,
    Kind,
    ListenAt,
    ListOf,
    Prefix,
    Text,
    WordOrDuration,
    WordOrList,
)
from swanroam.config.model import FilterMethod, GuardNew, LogFormat, LogLevel, Moves, TransportMethod
from swanroam.config.section import Section

_IDENTITY = Text('an IKE identity such as "mobile.example.org"')
_SWANCTL_NAME = Text("a name as in swanctl.conf, of letters, digits, '_' and '-'", r"[A-Za-z0-9_-]+", 63)
_GLOB = Text("an interface name or glob such as eth* (letters, digits and . _ - * ? [ ])", r"[\w.@*?!\[\]-]+", 63)
_PREFIXES = ListOf(Prefix(), "[192.0.2.0/24, 2001:db8::/32]")
_INTERFACES = ListOf(_GLOB, "[eth0, wlan*]", may_be_empty=False)

_CONTROL: dict[str, Kind] = {
    "port": Integer(1, 65535),
    "prefix": Prefix('an IPv6 prefix such as "fd53:7761:6e72::/48"', only_version=6),
    "mark": Integer(1, 0xFFFFFFFF),
    "child": _SWANCTL_NAME,
    "address": Address(),
}

_CARRIER: dict[str, Kind] = {
    "table": Integer(1, 0xFFFFFFFD),  # and two more
    "rule_priority": Integer(1, 32762),  # and three more; 0 is the rule for local, 32766 that for main (ip-rule(8))
}

_ADDRESSES: dict[str, Kind] = {
    "interfaces": _INTERFACES,
    "ignore_interfaces": ListOf(_GLOB, "[docker*, br-*]"),
    "ignore": _PREFIXES,
    "prefer": WordOrList("route", _INTERFACES),
    "readd_window": Duration(0, 60),
    "guard_new": Choice(GuardNew),
}

_TIMING: dict[str, Kind] = {
    "first_retransmit": Duration(0.01, 10),
    "give_up": Duration(1, 600),
    "refresh": Duration(5, 3600),
}

_SOCKETS: dict[str, Kind] = {
    "hold": Duration(0.1, 10),
    "stopped_share": Integer(1, 100),
    "exclude_processes": ListOf(
        Text("a process name or glob such as nginx*", r"[^\x00-\x1f\x7f]+", 63), "[postgres, nginx*]"
    ),
    "exclude_ports": ListOf(Integer(1, 65535), "[22, 5432]"),
    "end_after": WordOrDuration("never", Duration(0, 30 * 86400)),
}

_LOG: dict[str, Kind] = {"format": Choice(LogFormat), "level": Choice(LogLevel)}

_METRICS: dict[str, Kind] = {"listen": ListenAt()}

_SHARED: dict[str, Kind] = {
    "moves": Choice(Moves),
    "allow": ListOf(Prefix(), "[192.0.2.0/24, 2001:db8::/32]", may_be_empty=False),
    "filters": Choice(FilterMethod),
    "transport": Choice(TransportMethod),
    "grace": Duration(0, 3600),
}

_PEER: dict[str, Kind] = {
    "identity": _IDENTITY,
    "connection": _SWANCTL_NAME,
    "name": Text("a short name without spaces", r"[^\s\x00-\x1f\x7f]+", 63),
    **_SHARED,
    "children": ListOf(_SWANCTL_NAME, "[data]", may_be_empty=False),
    "fallback": ListOf(HostName(), "[server.example.org, 192.0.2.7]"),
    "control_address": Address(),
}

_HOMES: dict[str, str] = {
    **{
        key: f"under '{name}'"
        for name, keys in (
            ("control", _CONTROL),
            ("carrier", _CARRIER),
            ("addresses", _ADDRESSES),
            ("sockets", _SOCKETS),
            ("timing", _TIMING),
            ("log", _LOG),
            ("metrics", _METRICS),
        )
        for key in keys
    },
    **dict.fromkeys(_PEER, "under an item of 'peers'"),
    **dict.fromkeys(_SHARED, "under an item of 'peers' or under 'defaults'"),
    **dict.fromkeys(
        (
            "vici_socket",
            "swanctl",
            "swanctl_file",
            "state_directory",
            "runtime_directory",
            "api_group",
            "control",
            "carrier",
            "addresses",
            "sockets",
            "timing",
            "log",
            "metrics",
            "peers",
            "defaults",
        ),
        "at the top level",
    ),
}
"""Where a key belongs that was met where it does not; `identity` has two homes and names the inner one."""

SCHEMA = Section(
    keys={
        "identity": _IDENTITY,
        "vici_socket": AbsolutePath(),
        "swanctl": Text("a program's name or absolute path", r"[^\s/]+|/[^\x00-\x1f]+"),
        "swanctl_file": AbsolutePath(),
        "state_directory": AbsolutePath(),
        "runtime_directory": AbsolutePath(),
        "api_group": Text("a group's name such as swanroam-admin", r"[A-Za-z_][\w.-]*", 32),
        "control": Section(_CONTROL, homes=_HOMES),
        "carrier": Section(_CARRIER, homes=_HOMES),
        "addresses": Section(_ADDRESSES, homes=_HOMES),
        "sockets": Section(_SOCKETS, homes=_HOMES),
        "timing": Section(_TIMING, homes=_HOMES),
        "log": Section(_LOG, homes=_HOMES),
        "metrics": Section(_METRICS, homes=_HOMES),
        "defaults": Section(_SHARED, homes=_HOMES),
        "peers": ListOf(
            Section(
                _PEER,
                required={
                    "identity": "'identity: ' and the IKE identity that the peer authenticates with",
                    "connection": "'connection: ' and the name of the swanctl connection to the peer",
                },
                homes=_HOMES,
            ),
            "a list of items that begin with '- identity: ...'",
            may_be_empty=False,
        ),
    },
    required={
        "identity": "'identity: ' and the IKE identity that this host authenticates with",
        "peers": "'peers:' and under it a list of items that begin with '- identity: ...' and 'connection: ...'",
    },
    homes=_HOMES,
)
"""The whole file."""
