"""What a good configuration file gives, and what it means when a key is left out."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.config import (
    AddressSettings,
    CarrierSettings,
    FilterMethod,
    LogFormat,
    LogLevel,
    LogSettings,
    Moves,
    SocketSettings,
    TimingSettings,
    TransportMethod,
    load_config,
    parse_config,
)
from swanroam.inner_address import inner_address

MINIMAL = """\
identity: mobile.example.org
peers:
  - identity: server.example.org
    connection: server
"""

FULL = """\
identity: "C=CH, O=Example, CN=mobile"
vici_socket: /run/other.vici
swanctl: /usr/sbin/swanctl
swanctl_file: /etc/other/swanctl.conf
state_directory: /srv/state
runtime_directory: /srv/run
control:
  port: 5510
  prefix: fd00:1:2::/56
  mark: 0x10
  child: roam
  address: fd00:1:2:33::1
carrier: {table: 77, rule_priority: 99}
addresses:
  interfaces: [eth0, "wlan*"]
  ignore_interfaces: [wlan9]
  ignore: [192.0.2.0/24, 2001:db8::1]
  prefer: [eth0, wlan*]
  readd_window: 1500ms
timing:
  first_retransmit: 50ms
  give_up: 1m
  refresh: 0.5h
log: {format: json, level: debug}
defaults:
  filters: migrate
  grace: 20
  moves: peer
  allow: [10.0.0.0/8, 169.254.7.0/24]
peers:
  - identity: "@#4d6f6f6e"
    connection: moon
    name: moon
    grace: 3s
    children: [data, voice]
    control_address: fd00:1:2:34::2
  - identity: 192.0.2.77
    connection: sun
    moves: us
    fallback: [sun.example.org, 192.0.2.78, "2001:db8::78", sun]
    allow: [0.0.0.0/0, "::/0"]
    filters: renegotiate
"""


def test_identity_and_peers_are_enough_and_all_else_has_a_default() -> None:
    config = parse_config(MINIMAL)

    assert config.identity == "mobile.example.org"
    assert config.vici_socket == Path("/run/charon.vici")
    assert config.swanctl == "swanctl"
    assert config.swanctl_file is None
    assert config.state_directory == Path("/var/lib/swanroam")
    assert config.runtime_directory == Path("/run/swanroam")
    assert (config.control.port, config.control.mark, config.control.child) == (4510, 0x5353, "swanroam")
    assert config.control.prefix == IPv6Network("fd53:7761:6e72::/48")
    assert config.carrier == CarrierSettings(table=5353, rule_priority=150)
    assert config.addresses == AddressSettings(
        ("*",), ("docker*", "br-*", "veth*", "virbr*"), ignore=(), prefer=(), readd_window=1.0
    )
    assert config.timing == TimingSettings(first_retransmit=0.1, give_up=30.0, refresh=60.0)
    assert config.log == LogSettings(LogFormat.AUTO, LogLevel.INFO)
    (peer,) = config.peers
    assert (peer.identity, peer.connection, peer.name) == ("server.example.org", "server", "server.example.org")
    assert (peer.moves, peer.filters, peer.grace, peer.children, peer.fallback) == (
        Moves.BOTH,
        FilterMethod.RENEGOTIATE,
        10.0,
        None,
        None,
    )


def test_every_key_reaches_its_place() -> None:
    config = parse_config(FULL)

    assert config.identity == "C=CH, O=Example, CN=mobile"
    assert config.vici_socket == Path("/run/other.vici")
    assert config.swanctl == "/usr/sbin/swanctl"
    assert config.swanctl_file == Path("/etc/other/swanctl.conf")
    assert config.state_directory == Path("/srv/state")
    assert config.runtime_directory == Path("/srv/run")
    assert (config.control.port, config.control.mark, config.control.child) == (5510, 16, "roam")
    assert config.control.prefix == IPv6Network("fd00:1:2::/56")
    assert config.control.address == IPv6Address("fd00:1:2:33::1")
    assert config.carrier == CarrierSettings(77, 99)
    assert config.addresses == AddressSettings(
        ("eth0", "wlan*"),
        ("wlan9",),
        (ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128")),
        ("eth0", "wlan*"),
        1.5,
    )
    assert config.timing == TimingSettings(0.05, 60.0, 1800.0)
    assert config.log == LogSettings(LogFormat.JSON, LogLevel.DEBUG)
    assert config.peers[0].control_address == IPv6Address("fd00:1:2:34::2")
    sun = ("sun.example.org", IPv4Address("192.0.2.78"), IPv6Address("2001:db8::78"), "sun")
    assert config.peers[1].fallback == sun
    assert config.peers[0].children == ("data", "voice")


def test_defaults_count_where_a_peer_says_nothing() -> None:
    moon, sun = parse_config(FULL).peers

    assert (moon.moves, moon.filters, moon.grace) == (Moves.PEER, FilterMethod.MIGRATE, 3.0)
    assert moon.allow == (IPv4Network("10.0.0.0/8"), IPv4Network("169.254.7.0/24"))
    assert (sun.moves, sun.filters, sun.grace) == (Moves.US, FilterMethod.RENEGOTIATE, 20.0)
    assert sun.allow == (ip_network("0.0.0.0/0"), ip_network("::/0"))


def test_file_is_read_from_disk_with_or_without_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "swanroam.yaml"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text(MINIMAL, encoding=encoding)
        assert load_config(path) == parse_config(MINIMAL)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("30", 30.0), ("30s", 30.0), ("1500ms", 1.5), ("5m", 300.0), ("1h", 3600.0), ("0.5", 0.5), ('"2 s"', 2.0)],
)
def test_durations_are_numbers_of_seconds_or_carry_a_unit(written: str, seconds: float) -> None:
    assert parse_config(MINIMAL + f"    grace: {written}\n").peers[0].grace == seconds


def test_hundred_milliseconds_are_exactly_a_tenth_of_a_second() -> None:
    assert parse_config(MINIMAL + "timing: {first_retransmit: 100ms}\n").timing.first_retransmit == 0.1


def test_interfaces_named_by_the_admin_are_not_ignored_by_default() -> None:
    addresses = parse_config(MINIMAL + "addresses: {interfaces: [br-lan]}\n").addresses

    assert addresses.interfaces == ("br-lan",)
    assert addresses.ignore_interfaces == ()


def test_prefer_route_is_the_default_written_out() -> None:
    assert parse_config(MINIMAL + "addresses: {prefer: route}\n") == parse_config(MINIMAL)


def test_an_address_that_yaml_takes_for_a_number_in_base_60_is_an_address() -> None:
    config = parse_config(MINIMAL + "addresses: {ignore: [1:2:3:4:5:6:7:8]}\n")

    assert config.addresses.ignore == (ip_network("1:2:3:4:5:6:7:8"),)


def test_peer_is_found_by_name_and_by_identity() -> None:
    config = parse_config(FULL)

    assert config.peer("moon") is config.peers[0]
    assert config.peer("@#4d6f6f6e") is config.peers[0]
    assert config.peer("192.0.2.77") is config.peers[1]
    assert config.peer("mars") is None


def test_who_may_move_is_readable_from_either_side() -> None:
    assert [(moves.we_may, moves.peer_may) for moves in Moves] == [(True, False), (False, True), (True, True)]


def test_inner_addresses_come_from_the_identities() -> None:
    config = parse_config(MINIMAL)

    assert config.control.address == inner_address("mobile.example.org", config.control.prefix)
    assert config.peers[0].control_address == inner_address("server.example.org", config.control.prefix)


def test_inner_address_is_prefix_and_first_80_bits_of_sha256() -> None:
    digest = hashlib.sha256(b"mobile.example.org").digest()
    expected = IPv6Network("fd53:7761:6e72::/48").network_address.packed[:6] + digest[:10]

    assert inner_address("mobile.example.org", IPv6Network("fd53:7761:6e72::/48")).packed == expected


def test_inner_address_is_the_same_for_ever() -> None:
    """Golden value: changing the derivation would cut the control channel to every peer not yet updated."""
    derived = inner_address("mobile.example.org", IPv6Network("fd53:7761:6e72::/48"))
    assert derived == IPv6Address("fd53:7761:6e72:6d76:8185:b065:b090:508")


def test_a_64_takes_the_first_64_bits_of_the_hash_and_a_short_prefix_leaves_zeros() -> None:
    digest = hashlib.sha256(b"x").digest()

    assert inner_address("x", IPv6Network("fd00::/64")).packed[8:] == digest[:8]
    assert inner_address("x", IPv6Network("fd00::/40")).packed == b"\xfd" + bytes(5) + digest[:10]


@pytest.mark.parametrize("prefix", ["fd00::/65", "fd00::/128", "::/0"])
def test_inner_address_refuses_prefixes_that_leave_no_room(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix of /8 to /64"):
        inner_address("x", IPv6Network(prefix))


def test_inner_address_refuses_an_empty_identity() -> None:
    with pytest.raises(ValueError, match="empty"):
        inner_address("", IPv6Network("fd00::/48"))


@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.integers(8, 64))
def test_inner_address_always_lies_in_its_prefix(identity: str, length: int) -> None:
    prefix = IPv6Network(("fd00::", length))
    assert inner_address(identity, prefix) in prefix


def test_sockets_move_unless_the_file_says_otherwise() -> None:
    config = parse_config(MINIMAL)
    assert config.peers[0].transport is TransportMethod.MOVE
    assert config.sockets == SocketSettings(
        hold=1.0, stopped_share=10, exclude_processes=(), exclude_ports=(), end_after=None
    )


def test_what_becomes_of_sockets_can_be_said_for_all_and_for_one() -> None:
    config = parse_config(
        MINIMAL
        + """\
    transport: move
defaults: {transport: keep}
sockets:
  hold: 250ms
  stopped_share: 25
  exclude_processes: ["nginx*", "tmux: server"]
  exclude_ports: [22, 5432]
  end_after: 1h
"""
    )
    assert config.peers[0].transport is TransportMethod.MOVE
    assert config.sockets == SocketSettings(0.25, 25, ("nginx*", "tmux: server"), (22, 5432), 3600.0)
    assert parse_config(MINIMAL + "sockets: {end_after: never}\n").sockets.end_after is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("127.0.0.1:9510", "127.0.0.1:9510"),
        ("9510", "127.0.0.1:9510"),
        ('"[::1]:9510"', "[::1]:9510"),
        ("0.0.0.0:80", "0.0.0.0:80"),
    ],
)
def test_a_port_alone_is_one_of_the_loopback_address(written: str, meant: str) -> None:
    peers = "peers: [{identity: b.example.org, connection: b}]"
    text = f"identity: a.example.org\n{peers}\nmetrics: {{listen: {written}}}\n"

    assert str(parse_config(text).metrics.listen) == meant


@pytest.mark.parametrize("line", ["", "metrics: {listen: none}\n"])
def test_without_a_word_there_are_no_metrics(line: str) -> None:
    text = f"identity: a.example.org\npeers: [{{identity: b.example.org, connection: b}}]\n{line}"

    assert parse_config(text).metrics.listen is None
