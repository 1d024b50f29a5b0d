"""What is said about a bad configuration file: all of it at once, where it stands, and what to write instead."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swanroam.config import Config, ConfigError, load_config, parse_config
from swanroam.config import checks as checks_module

MINIMAL = """\
identity: mobile.example.org
peers:
  - identity: server.example.org
    connection: server
"""


def problems_of(text: str) -> list[str]:
    """The rendered problems of a file that is called `f`."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f")
    assert str(caught.value).splitlines() == [problem.render("f") for problem in caught.value.problems]
    return str(caught.value).splitlines()


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = """\
identity: no
vici-socket: /run/charon.vici
timing:
  give_up: 22:22
  refresh: 1d
control:
  prefix: 10.0.0.0/8
peers:
  - identity: a
    grace_period: 10
"""
    found = problems_of(text)

    assert [line.split(" ")[0] for line in found] == [
        "f:1:11:",
        "f:2:1:",
        "f:4:12:",
        "f:5:12:",
        "f:7:11:",
        "f:9:5:",
        "f:10:5:",
    ]
    assert found[0] == 'f:1:11: identity: is a yes/no value to YAML when unquoted, not a string; write "no"'
    assert found[2] == (
        "f:4:12: timing.give_up: is '22:22'; write a duration from 1s to 10m, as 30, 30s, 500ms, 5m or 1h"
    )
    assert found[5] == (
        "f:9:5: peers[0].connection: is missing; "
        "write 'connection: ' and the name of the swanctl connection to the peer"
    )
    assert found[6].startswith("f:10:5: peers[0].grace_period: is not a known key; keys here are identity, connection,")
    assert found[6].endswith("(did you mean 'grace'?)")


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        # Types: what YAML 1.1 makes of plain text
        ("swanctl: 0x10", 'f:5:10: swanctl: is a number to YAML when unquoted, not a string; write "0x10"'),
        ("swanctl: 2001-01-01", 'f:5:10: swanctl: is a date to YAML when unquoted, not a string; write "2001-01-01"'),
        ("swanctl: ~", 'f:5:10: swanctl: is an empty value to YAML when unquoted, not a string; write "~"'),
        ("swanctl:", "f:5:9: swanctl: is empty; write a program's name or absolute path"),
        ("swanctl: bin/swanctl", "f:5:10: swanctl: is 'bin/swanctl'; write a program's name or absolute path"),
        (
            "carrier: {table: 0123}",
            "f:5:18: carrier.table: is '0123', which YAML reads as octal; write it without leading zeros",
        ),
        (
            "carrier: {table: 22:22}",
            "f:5:18: carrier.table: is '22:22', which YAML reads in base 60; write a whole number from 1 to 4294967293",
        ),
        (
            'carrier: {table: "12"}',
            "f:5:18: carrier.table: is quoted; write a whole number from 1 to 4294967293 without quotes",
        ),
        ("carrier: {table: 1_000}", "f:5:18: carrier.table: is '1_000'; write a whole number from 1 to 4294967293"),
        ("carrier: {table: 1.5}", "f:5:18: carrier.table: is '1.5'; write a whole number from 1 to 4294967293"),
        ("carrier: {table: yes}", "f:5:18: carrier.table: is 'yes'; write a whole number from 1 to 4294967293"),
        ("carrier: {table: [1]}", "f:5:18: carrier.table: is a list; write a whole number from 1 to 4294967293"),
        ("carrier: 5", "f:5:10: carrier: is '5', not a mapping; write the keys under it (table, rule_priority)"),
        ("carrier:", "f:5:9: carrier: is empty; write the keys under it (table, rule_priority), or remove it"),
        (
            "vici_socket: charon.vici",
            "f:5:14: vici_socket: is 'charon.vici'; write an absolute path, beginning with '/'",
        ),
        (
            "metrics: {listen: localhost}",
            "f:5:19: metrics.listen: is 'localhost'; write an address and port such as 127.0.0.1:9510, a port of "
            "127.0.0.1 alone, or none",
        ),
        (
            'metrics: {listen: "::1:9510"}',
            "f:5:19: metrics.listen: is '::1:9510'; write an IPv6 address in brackets: [::1]:9510",
        ),
        (
            "metrics: {listen: 10:20}",
            "f:5:19: metrics.listen: is '10:20', which YAML reads in base 60; write an address and port such as "
            "127.0.0.1:9510, a port of 127.0.0.1 alone, or none",
        ),
        (
            "metrics: {listen: 70000}",
            "f:5:19: metrics.listen: is '70000'; write an address and port such as 127.0.0.1:9510, a port of "
            "127.0.0.1 alone, or none",
        ),
        ("log: {level: trace}", "f:5:14: log.level: is 'trace'; write debug, info, warning or error"),
        (
            "log: {level: warn}",
            "f:5:14: log.level: is 'warn'; write debug, info, warning or error (did you mean 'warning'?)",
        ),
        ("log: {format: JSON}", "f:5:15: log.format: is 'JSON'; write auto, console or json (did you mean 'json'?)"),
        ("log: {format: on}", "f:5:15: log.format: is 'on'; write auto, console or json"),
        (
            "timing: {refresh: -5}",
            "f:5:19: timing.refresh: is '-5'; write a duration from 5s to 1h, as 30, 30s, 500ms, 5m or 1h",
        ),
        (
            "timing: {refresh: 2h}",
            "f:5:19: timing.refresh: is 2h, out of range; write a duration from 5s to 1h, as 30, 30s, 500ms, 5m or 1h",
        ),
        (
            "timing: {first_retransmit: 1ms}",
            "f:5:28: timing.first_retransmit: is 1ms, out of range; "
            "write a duration from 10ms to 10s, as 30, 30s, 500ms, 5m or 1h",
        ),
        # Sockets
        (
            "sockets: {hold: 1m}",
            "f:5:17: sockets.hold: is 1m, out of range; "
            "write a duration from 100ms to 10s, as 30, 30s, 500ms, 5m or 1h",
        ),
        (
            "sockets: {end_after: soon}",
            "f:5:22: sockets.end_after: is 'soon'; write a duration from 0s to 720h, as 30, 30s, 500ms, 5m or 1h, "
            "or 'never'",
        ),
        (
            "sockets: {exclude_ports: [ssh]}",
            "f:5:27: sockets.exclude_ports[0]: is 'ssh'; write a whole number from 1 to 65535",
        ),
        (
            "sockets: {exclude_processes: [a, a]}",
            "f:5:30: sockets.exclude_processes: names 'a' twice; remove one of them",
        ),
        # Addresses and interfaces
        ("addresses: {interfaces: eth0}", "f:5:25: addresses.interfaces: is 'eth0', not a list; write [eth0]"),
        ("addresses: {interfaces: []}", "f:5:25: addresses.interfaces: is an empty list; write [eth0, wlan*]"),
        (
            "addresses: {interfaces: [eth0, no]}",
            'f:5:32: addresses.interfaces[1]: is a yes/no value to YAML when unquoted, not a string; write "no"',
        ),
        (
            "addresses: {interfaces: [lo]}",
            "f:5:25: addresses.interfaces: names 'lo', whose addresses no other host can reach; remove it",
        ),
        (
            "addresses: {prefer: [eth0, eth0]}",
            "f:5:21: addresses.prefer: names 'eth0' twice; remove one of them",
        ),
        (
            "addresses: {prefer: routes}",
            "f:5:21: addresses.prefer: is 'routes'; write 'route' or a list such as [eth0, wlan*]",
        ),
        (
            "addresses: {ignore: [10.0.0.300]}",
            "f:5:22: addresses.ignore[0]: is '10.0.0.300', not an address prefix; "
            "write a prefix such as 192.0.2.0/24 or 2001:db8::/32",
        ),
        (
            "addresses: {ignore: [10.0.0.1/8]}",
            "f:5:22: addresses.ignore[0]: is 10.0.0.1/8, which has bits set after the prefix; write 10.0.0.0/8",
        ),
        # The control channel
        (
            "control: {prefix: 10.0.0.0/8}",
            'f:5:19: control.prefix: is 10.0.0.0/8, an IPv4 prefix; write an IPv6 prefix such as "fd53:7761:6e72::/48"',
        ),
        (
            "control: {prefix: 'fd00::/96'}",
            "f:5:19: control.prefix: is fd00::/96; inner addresses need a prefix of /8 to /64, "
            "such as fd53:7761:6e72::/48",
        ),
        (
            "control: {prefix: 'fe80::/64'}",
            "f:5:19: control.prefix: is fe80::/64, where no host can have an address; "
            "write one such as fd53:7761:6e72::/48",
        ),
        (
            "control: {address: 10.0.0.1}",
            "f:5:20: control.address: is 10.0.0.1; write an IPv6 address such as fd53:7761:6e72::1",
        ),
        (
            "control: {address: mobile}",
            "f:5:20: control.address: is 'mobile', not an IP address; write an IPv6 address such as fd53:7761:6e72::1",
        ),
        (
            "control: {address: 'fd00::1'}",
            "f:5:20: control.address: is fd00::1, outside control.prefix fd53:7761:6e72::/48, and so would not be "
            "kept from leaving in clear; write an address inside it",
        ),
        ("control: {port: 4500}", "f:5:17: control.port: is 4500, the port of IKE; write another, such as 4510"),
        ("control: {port: 0}", "f:5:17: control.port: is 0, out of range; write a whole number from 1 to 65535"),
        (
            "control: {child: a b}",
            "f:5:18: control.child: is 'a b'; write a name as in swanctl.conf, of letters, digits, '_' and '-'",
        ),
        # Tables, priorities and times that contradict what else is there
        (
            "carrier: {table: 220}",
            "f:5:18: carrier.table: is 220, the table that charon puts its own routes into (charon.routing_table); "
            "write a number that nothing else uses, such as 5353",
        ),
        (
            "carrier: {table: 254}",
            "f:5:18: carrier.table: is 254, the kernel's table 'main'; "
            "write a number that nothing else uses, such as 5353",
        ),
        (
            "carrier: {table: 252}",
            "f:5:18: carrier.table: is 252, and 253 is needed too, the kernel's table 'default'; "
            "write a number that nothing else uses, such as 5353",
        ),
        (
            "carrier: {rule_priority: 32766}",
            "f:5:26: carrier.rule_priority: is 32766, out of range; write a whole number from 1 to 32762",
        ),
        (
            "timing: {first_retransmit: 2s, give_up: 3s}",
            "f:5:41: timing.give_up: leaves no time for a retransmission: first_retransmit is 2s and give_up 3s; "
            "make give_up at least 4s",
        ),
        # Keys
        (
            "contrl: {}",
            "f:5:1: contrl: is not a known key; keys here are identity, vici_socket, swanctl, swanctl_file, "
            "state_directory, runtime_directory, api_group, control, carrier, addresses, sockets, timing, log, "
            "metrics, defaults, peers (did you mean 'control'?)",
        ),
        ("port: 4510", "f:5:1: port: is not a known key; it belongs under 'control'"),
        ("grace: 5", "f:5:1: grace: is not a known key; it belongs under an item of 'peers' or under 'defaults'"),
        ("log: {table: 1}", "f:5:7: log.table: is not a known key; it belongs under 'carrier'"),
        ("log: {peers: 1}", "f:5:7: log.peers: is not a known key; it belongs at the top level"),
        ("log: {color: 1}", "f:5:7: log.color: is not a known key; keys here are format, level"),
        ("log: {[a]: 1}", "f:5:7: log: has a list as a key; write one of format, level"),
        ("identity: other", "f:5:1: identity: is given twice, first on line 1; remove one of them"),
        ("log: {level: info, level: debug}", "f:5:20: log.level: is given twice, first on line 5; remove one of them"),
        (
            "defaults: {connection: x}",
            "f:5:12: defaults.connection: is not a known key; it belongs under an item of 'peers'",
        ),
        (
            "defaults: {allow: [127.0.0.0/8]}",
            "f:5:19: defaults.allow: contains 127.0.0.0/8, where no peer can be reached; remove it",
        ),
        (
            'defaults: {allow: ["fe80::/10"]}',
            "f:5:19: defaults.allow: contains fe80::/10, where no peer can be reached; remove it",
        ),
        (
            "<<: {log: 1}",
            "f:5:1: merge keys (<<) are not supported; use 'defaults' for what peers share",
        ),
    ],
)
def test_one_wrong_line_gives_one_problem(added: str, expected: str) -> None:
    assert problems_of(MINIMAL + added + "\n") == [expected]


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("    moves: me", "f:5:12: peers[0].moves: is 'me'; write us, peer or both"),
        (
            "    filters: migrated",
            "f:5:14: peers[0].filters: is 'migrated'; write renegotiate or migrate (did you mean 'migrate'?)",
        ),
        (
            "    grace: 10 seconds",
            "f:5:12: peers[0].grace: is '10 seconds'; write a duration from 0s to 1h, as 30, 30s, 500ms, 5m or 1h",
        ),
        ("    allow: 10.0.0.1", "f:5:12: peers[0].allow: is '10.0.0.1', not a list; write [10.0.0.1]"),
        ("    children: []", "f:5:15: peers[0].children: is an empty list; write [data]"),
        (
            "    children: [data, swanroam]",
            "f:5:15: peers[0].children: names 'swanroam', the child of the control channel, which moves by itself; "
            "remove it",
        ),
        ("    children: [a, a]", "f:5:15: peers[0].children: names 'a' twice; remove one of them"),
        *(
            (
                f'    fallback: ["{text}"]',
                f"f:5:16: peers[0].fallback[0]: is {text!r}; write an address or a DNS name such as server.example.org",
            )
            for text in (
                "192.0.2.0/24",
                "192.0.2.300",
                "10.1",
                "server.example.org:500",
                "%any",
                "fe80::1%eth0",
                "-a.example.org",
                "a..example.org",
                "a b",
                "https://server.example.org",
            )
        ),
        (
            "    fallback: server.example.org",
            "f:5:15: peers[0].fallback: is 'server.example.org', not a list; write [server.example.org]",
        ),
        (
            "    fallback: [192.0.2.7, 192.0.2.7]",
            "f:5:15: peers[0].fallback: names '192.0.2.7' twice; remove one of them",
        ),
        *(
            (
                f'    fallback: ["{address}"]',
                f"f:5:15: peers[0].fallback: contains {address}, where no peer can be reached; remove it",
            )
            for address in ("127.0.0.1", "fe80::1", "ff02::1", "0.0.0.0", "::")
        ),
        (
            "    fallback: [192.0.2.7]\n    moves: peer",
            "f:5:15: peers[0].fallback: is only used by a host that may move, and moves is 'peer'; remove one of them",
        ),
        (
            "    fallback: [192.0.2.7]\ndefaults: {moves: peer}",
            "f:5:15: peers[0].fallback: is only used by a host that may move, and moves is 'peer'; remove one of them",
        ),
        ("    name: my peer", "f:5:11: peers[0].name: is 'my peer'; write a short name without spaces"),
        (
            "  - server",
            "f:5:5: peers[1]: is 'server', not a mapping; write the keys under it (identity, connection, "
            "name, moves, allow, filters, transport, grace, children, fallback, control_address)",
        ),
        (
            "  - {identity: server.example.org, connection: other}",
            "f:5:16: peers[1].identity: is 'server.example.org', as on line 3; every peer needs its own, "
            "remove one of them",
        ),
        (
            "  - {identity: mobile.example.org, connection: other}",
            "f:5:16: peers[1].identity: is 'mobile.example.org', this host's own identity; "
            "write the identity that the peer authenticates with",
        ),
        (
            "    name: s\n  - {identity: b, connection: b, name: s}",
            "f:6:40: peers[1].name: is 's', as on line 5; every peer needs its own, remove one of them",
        ),
        (
            "  - {identity: b, connection: b, name: server.example.org}",
            "f:5:40: peers[1].name: is 'server.example.org', the identity of the peer on line 3; write another name",
        ),
        (
            "  - {identity: b, connection: b, control_address: 'fd53:7761:6e72::1'}\n"
            "  - {identity: c, connection: c, control_address: 'fd53:7761:6e72::1'}",
            "f:6:51: peers[2].control_address: gives the peer on line 6 the inner address fd53:7761:6e72::1, "
            "which the peer on line 5 has too; write another control_address",
        ),
        (
            "  - {identity: b}",
            "f:5:5: peers[1].connection: is missing; write 'connection: ' and the name of the "
            "swanctl connection to the peer",
        ),
    ],
)
def test_one_wrong_line_of_a_peer_gives_one_problem(added: str, expected: str) -> None:
    assert problems_of(MINIMAL + added + "\n") == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f: is empty; it needs at least 'identity' and 'peers'"),
        ("# nothing\n", "f: is empty; it needs at least 'identity' and 'peers'"),
        ("identity: a\n\tpeers: []\n", "f:2:1: tab in the indentation; YAML allows only spaces there"),
        ("identity: @moon\n", 'f:1:11: a value cannot begin with @ unless it is quoted; write "@..."'),
        (
            "identity: a: b\n",
            "f:1:12: a second ': ' on one line, or wrong indentation; quote a value that contains ': ', "
            "or put the key on its own line",
        ),
        (
            "a: &x 1\nb: *x\n",
            "f:1:4: the anchor &x is not supported; remove it, or use 'defaults' for what peers share",
        ),
        ("a: *x\n", "f:1:4: the alias *x is not supported; write the value out, or use 'defaults'"),
        ("a: !!python/object:os.system 1\n", "f:1:4: the tag !!python/object:os.system is not supported; remove it"),
        (
            "a: 1\n---\nb: 1\n",
            "f:2:1: a second document begins here; keep everything in one, without '---' in between",
        ),
        ("a: \x07\n", "f:1:4: control character U+0007; this is not a text file"),
        ("[" * 1000, "f: is nested too deeply; the deepest setting has four levels"),
        ("x" * 1_000_001, "f: has 1000001 characters, more than 1000000; is this the right file?"),
        (
            "- identity: a\n",
            "f:1:1: is a list, not a mapping; write the keys under it (identity, vici_socket, swanctl, "
            "swanctl_file, state_directory, runtime_directory, api_group, control, carrier, addresses, sockets, "
            "timing, log, metrics, defaults, peers)",
        ),
        (
            "identity: a\npeers: []\n",
            "f:2:8: peers: is an empty list; write a list of items that begin with '- identity: ...'",
        ),
        (
            "identity: a\n",
            "f:1:1: peers: is missing; write 'peers:' and under it a list of items that begin with "
            "'- identity: ...' and 'connection: ...'",
        ),
    ],
)
def test_file_that_is_no_configuration_at_all(text: str, expected: str) -> None:
    assert problems_of(text) == [expected]


def test_yaml_that_does_not_parse_names_the_place_and_what_to_look_for() -> None:
    (found,) = problems_of("identity: [a\npeers: 1\n")

    assert found.startswith("f:2:6: not valid YAML: ")
    assert found.endswith("check indentation, brackets and quotes above this place")


def test_misspelt_required_key_is_one_problem_not_two() -> None:
    (found,) = problems_of(MINIMAL.replace("identity: mobile", "identiy: mobile"))

    assert found.endswith("(did you mean 'identity'?)")


def test_problem_inside_one_peer_does_not_hide_those_across_peers() -> None:
    found = problems_of(MINIMAL + "  - {identity: server.example.org, connection: 5}\n  - 7\n")

    assert [line.split(" ")[1] for line in found] == ["peers[1].identity:", "peers[1].connection:", "peers[2]:"]


def test_two_peers_with_one_derived_address_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_module, "inner_address", lambda identity, prefix: IPv6Address("fd53:7761:6e72::5"))

    found = problems_of(MINIMAL)

    assert found == [
        "f:3:15: peers[0].identity: gives the peer on line 3 the inner address fd53:7761:6e72::5, "
        "which this host has too; write another control_address"
    ]


def test_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"{path}: cannot be read: No such file or directory; create it, or name another with --config"
    )


def test_directory_instead_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory; name the file in it"):
        load_config(tmp_path)


def test_file_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied; run as root"):
        load_config("/etc/swanroam/swanroam.yaml")


def test_file_in_another_encoding_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"identity: a\nname: Z\xfcrich\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}:2:8: byte 0xfc is not UTF-8; save the file as UTF-8"


YAML_PIECES = [
    "identity",
    "peers",
    "control",
    "prefix",
    "allow",
    ":",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "|",
    ">",
    "&a",
    "*a",
    "!",
    "!!int",
    "<<",
    "~",
    "no",
    "0x",
    "1:2",
    "::",
    "/8",
    "fd00::/48",
    "10s",
    "#",
    "%",
    "---",
    "...",
    "?",
    " ",
    "\n",
    "  ",
    "- ",
    "\t",
    "\x85",
    "\ufeff",
    "\u2028",
    "\x7f",
]


def yaml_like() -> st.SearchStrategy[str]:
    return st.lists(st.one_of(st.sampled_from(YAML_PIECES), st.text(max_size=3)), max_size=40).map("".join)


def outcome(text: str) -> Config | ConfigError:
    try:
        return parse_config(text)
    except ConfigError as error:
        return error


@given(yaml_like())
@example("? a\n? b")
@example("peers: {}")
@example('identity: "\\0"')
@example("control: {prefix: [1], port: {a: b}}")
def test_any_text_gives_a_configuration_or_a_problem_in_words(text: str) -> None:
    result = outcome(text)

    assert isinstance(result, Config) or all(problem.message for problem in result.problems)


@given(yaml_like())
def test_any_text_after_a_good_beginning_gives_a_configuration_or_problems(text: str) -> None:
    result = outcome(MINIMAL + "    " + text)

    assert isinstance(result, Config) or result.problems
