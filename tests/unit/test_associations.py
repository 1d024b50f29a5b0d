"""charon's associations as data. The messages were captured from charon 5.9.8, fields that nobody reads left out."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from swanroam.ike.associations import ChildSa, ChildState, Counters, Endpoint, IkeState, Mark, Mode, parse_list_sa
from swanroam.ike.messages import ViciProtocolError
from swanroam.ike.selectors import OPAQUE_PORT, TrafficSelector

ESTABLISHED: dict[str, Any] = {
    "home": {
        "uniqueid": "1",
        "version": "2",
        "state": "ESTABLISHED",
        "local-host": "10.1.1.2",
        "local-port": "4500",
        "local-id": "mobile@example.org",
        "remote-host": "10.3.3.2",
        "remote-port": "4500",
        "remote-id": "peer@example.org",
        "initiator": "yes",
        "initiator-spi": "2e6f3463ba5d463d",
        "responder-spi": "f757b4938424e59b",
        "nat-fake": "yes",
        "nat-any": "yes",
        "encr-alg": "AES_CBC",
        "encr-keysize": "128",
        "established": "6",
        "rekey-time": "13526",
        "child-sas": {
            "swanroam-8": {
                "name": "swanroam",
                "uniqueid": "8",
                "reqid": "2",
                "state": "INSTALLED",
                "mode": "TUNNEL",
                "protocol": "ESP",
                "spi-in": "c7e24d5d",
                "spi-out": "c53f5cb5",
                "encr-alg": "AES_GCM_16",
                "encr-keysize": "128",
                "bytes-in": "0",
                "packets-in": "0",
                "bytes-out": "208",
                "packets-out": "2",
                "use-out": "1",
                "rekey-time": "3366",
                "life-time": "3956",
                "install-time": "4",
                "local-ts": ["fd53:1::1/128"],
                "remote-ts": ["fd53:1::2/128"],
            },
            "data-1": {
                "name": "data",
                "uniqueid": "1",
                "reqid": "1",
                "state": "DELETED",
                "mode": "TRANSPORT",
                "protocol": "ESP",
                "spi-in": "c07b6896",
                "spi-out": "c964d60a",
                "local-ts": ["10.1.1.2/32"],
                "remote-ts": ["10.3.3.2/32"],
            },
            "data-6": {
                "name": "data",
                "uniqueid": "6",
                "reqid": "1",
                "state": "INSTALLED",
                "mode": "TRANSPORT",
                "protocol": "ESP",
                "spi-in": "c06d14bf",
                "spi-out": "c33c74e4",
                "local-ts": ["10.1.1.2/32"],
                "remote-ts": ["10.3.3.2/32"],
            },
        },
    }
}
RANGE_CHILD: dict[str, Any] = {
    "name": "range",
    "uniqueid": "3",
    "reqid": "3",
    "state": "INSTALLED",
    "mode": "TUNNEL",
    "protocol": "ESP",
    "encap": "yes",
    "spi-in": "ccca9f05",
    "spi-out": "c4ec0b4b",
    "mark-in": "00000010",
    "mark-mask-in": "000000ff",
    "mark-out": "00000020",
    "if-id-in": "00000007",
    "if-id-out": "00000008",
    "bytes-in": "0",
    "packets-in": "0",
    "bytes-out": "0",
    "packets-out": "0",
    "rekey-time": "3341",
    "life-time": "3960",
    "install-time": "1",
    "local-ts": ["10.50.0.1..10.50.0.9", "10.60.0.0/16[udp/5000-5100]"],
    "remote-ts": ["0.0.0.0/0"],
}
CONNECTING: dict[str, Any] = {
    "home~10.2.2.2~10.3.3.2": {
        "uniqueid": "27",
        "version": "2",
        "state": "CONNECTING",
        "local-host": "10.2.2.2",
        "local-port": "500",
        "local-id": "%any",
        "remote-host": "10.3.3.2",
        "remote-port": "500",
        "remote-id": "%any",
        "initiator": "yes",
        "initiator-spi": "34ea111b947a294d",
        "responder-spi": "0000000000000000",
        "tasks-active": ["IKE_VENDOR", "IKE_INIT", "IKE_NATD", "CHILD_CREATE"],
        "child-sas": {},
    }
}
UPDATE_OF_UNNAMED: dict[str, Any] = {
    "local-host": "fd33::2",
    "local-port": "4500",
    "remote-host": "fd11::2",
    "remote-port": "4500",
    "(unnamed)": {
        "uniqueid": "2",
        "version": "2",
        "state": "CONNECTING",
        "local-host": "fd33::2",
        "local-port": "500",
        "local-id": "%any",
        "remote-host": "fd11::2",
        "remote-port": "500",
        "remote-id": "%any",
        "initiator-spi": "38a9cb8b9fddfeb0",
        "responder-spi": "c53f5fe259f0a6df",
        "nat-remote": "yes",
        "nat-any": "yes",
        "tasks-passive": ["IKE_CERT_PRE", "IKE_AUTH", "CHILD_CREATE"],
    },
}


def child(**fields: Any) -> ChildSa:
    (ike_sa,) = parse_list_sa({"c": {"uniqueid": "1", "state": "ESTABLISHED", "child-sas": {"x-3": fields}}})
    return ike_sa.children[0]


def test_established_association_is_read_whole() -> None:
    (ike_sa,) = parse_list_sa(ESTABLISHED)
    assert (ike_sa.name, ike_sa.unique_id, ike_sa.state, ike_sa.version) == ("home", 1, IkeState.ESTABLISHED, 2)
    assert ike_sa.local == Endpoint(IPv4Address("10.1.1.2"), 4500, "mobile@example.org")
    assert ike_sa.remote == Endpoint(IPv4Address("10.3.3.2"), 4500, "peer@example.org")
    assert (ike_sa.initiator, ike_sa.nat_any, ike_sa.nat_local, ike_sa.nat_remote) == (True, True, False, False)
    assert (ike_sa.initiator_spi, ike_sa.responder_spi) == ("2e6f3463ba5d463d", "f757b4938424e59b")
    assert (ike_sa.established_ago, ike_sa.rekey_in, ike_sa.reauth_in) == (6, 13526, None)
    assert ike_sa.is_usable
    assert ike_sa.connects(IPv4Address("10.1.1.2"), IPv4Address("10.3.3.2"))
    assert not ike_sa.connects(IPv4Address("10.3.3.2"), IPv4Address("10.1.1.2"))
    assert [child.unique_id for child in ike_sa.children] == [1, 6, 8]


def test_child_is_read_whole() -> None:
    (ike_sa,) = parse_list_sa(ESTABLISHED)
    inner = TrafficSelector(IPv6Address("fd53:1::1"), IPv6Address("fd53:1::1"))
    assert ike_sa.child("swanroam") == ChildSa(
        name="swanroam",
        unique_id=8,
        reqid=2,
        state=ChildState.INSTALLED,
        mode=Mode.TUNNEL,
        protocol="ESP",
        spi_in=0xC7E24D5D,
        spi_out=0xC53F5CB5,
        local_ts=(inner,),
        remote_ts=(TrafficSelector.parse("fd53:1::2/128"),),
        sent=Counters(bytes=208, packets=2, used_ago=1),
        installed_ago=4,
        rekey_in=3366,
        expires_in=3956,
    )


def test_marks_interfaces_encapsulation_and_ranges_are_read() -> None:
    sa = child(**RANGE_CHILD)
    assert sa.udp_encapsulation
    assert (sa.mark_in, sa.mark_out) == (Mark(0x10, 0xFF), Mark(0x20))
    assert (sa.if_id_in, sa.if_id_out) == (7, 8)
    assert sa.local_ts == (
        TrafficSelector(IPv4Address("10.50.0.1"), IPv4Address("10.50.0.9")),
        TrafficSelector(IPv4Address("10.60.0.0"), IPv4Address("10.60.255.255"), protocol=17, ports=(5000, 5100)),
    )


def test_newest_usable_child_of_a_name_is_found() -> None:
    (ike_sa,) = parse_list_sa(ESTABLISHED)
    data = ike_sa.child("data")
    assert data is not None
    assert data.unique_id == 6
    assert ike_sa.child("backup") is None


def test_connecting_association_has_neither_identities_nor_children() -> None:
    (ike_sa,) = parse_list_sa(CONNECTING)
    assert ike_sa.state is IkeState.CONNECTING
    assert not ike_sa.is_usable
    assert ike_sa.remote == Endpoint(IPv4Address("10.3.3.2"), 500, "%any")
    assert ike_sa.tasks_active[-1] == "CHILD_CREATE"
    assert ike_sa.children == ()
    assert ike_sa.established_ago is None


def test_event_on_an_unnamed_association_is_read_beside_its_other_values() -> None:
    (ike_sa,) = parse_list_sa(UPDATE_OF_UNNAMED)
    assert (ike_sa.name, ike_sa.state, ike_sa.initiator) == ("(unnamed)", IkeState.CONNECTING, False)
    assert ike_sa.local.host == IPv6Address("fd33::2")


@pytest.mark.parametrize("host", ["%any", "%any6", "0.0.0.0", "::"])
def test_unresolved_host_is_none(host: str) -> None:
    (ike_sa,) = parse_list_sa({"c": {**CONNECTING["home~10.2.2.2~10.3.3.2"], "local-host": host}})
    assert ike_sa.local.host is None
    assert not ike_sa.connects(ip_address("10.2.2.2"), ip_address("10.3.3.2"))


def test_child_that_is_updating_has_no_spis_for_a_while() -> None:
    updating = child(name="data", uniqueid="1", reqid="1", state="UPDATING", mode="TRANSPORT")
    assert (updating.spi_in, updating.spi_out, updating.local_ts) == (None, None, ())
    assert not updating.is_usable


def test_states_and_modes_of_a_newer_charon_are_unknown_not_fatal() -> None:
    sa = child(name="data", uniqueid="1", state="HIBERNATING", mode="WARP")
    assert (sa.state, sa.mode, sa.is_usable) == (ChildState.UNKNOWN, Mode.UNKNOWN, False)


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"uniqueid": "x", "state": "ESTABLISHED"},
        {"uniqueid": "1", "state": ["ESTABLISHED"]},
        {"uniqueid": "1", "state": "ESTABLISHED", "local-host": "nowhere"},
        {"uniqueid": "1", "state": "ESTABLISHED", "child-sas": "none"},
        {
            "uniqueid": "1",
            "state": "ESTABLISHED",
            "child-sas": {"d": {"uniqueid": "1", "state": "", "local-ts": ["?"]}},
        },
        {
            "uniqueid": "1",
            "state": "ESTABLISHED",
            "child-sas": {"d": {"uniqueid": "1", "state": "", "local-ts": "10/8"}},
        },
    ],
)
def test_unreadable_association_is_a_protocol_error(section: dict[str, Any]) -> None:
    with pytest.raises(ViciProtocolError, match="cannot be read"):
        parse_list_sa({"home": section})


def test_children_share_a_policy_only_with_equal_selectors_marks_and_interfaces() -> None:
    sa = child(**RANGE_CHILD)
    assert sa.same_selectors(replace(sa, unique_id=9, name="other", local_ts=sa.local_ts[::-1]))
    assert not sa.same_selectors(replace(sa, local_ts=sa.local_ts[:1]))
    assert not sa.same_selectors(replace(sa, if_id_in=0))
    assert not sa.same_selectors(replace(sa, mark_out=None))


@pytest.mark.parametrize(
    ("text", "protocol", "ports"),
    [
        ("10.0.0.1/32", 0, (0, 65535)),
        ("10.0.0.1", 0, (0, 65535)),
        ("10.0.0.1/32[tcp]", 6, (0, 65535)),
        ("10.0.0.1/32[6]", 6, (0, 65535)),
        ("10.0.0.1/32[tcp/http]", 6, (80, 80)),
        ("10.0.0.1/32[udp/5000-5100]", 17, (5000, 5100)),
        ("10.0.0.1/32[icmp/8]", 1, (0x0800, 0x0800)),
        ("10.0.0.1/32[icmp/3(4)]", 1, (0x0304, 0x0304)),
        ("10.0.0.1/32[tcp/OPAQUE]", 6, OPAQUE_PORT),
        ("10.0.0.1/32[any/%any]", 0, (0, 65535)),
        ("10.0.0.1/32[0/500]", 0, (500, 500)),
    ],
)
def test_selector_forms(text: str, protocol: int, ports: tuple[int, int]) -> None:
    selector = TrafficSelector.parse(text)
    assert selector == TrafficSelector(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.1"), protocol, ports)
    assert TrafficSelector.parse(str(selector)).ports == ports
    assert selector.is_host(IPv4Address("10.0.0.1"))


@pytest.mark.parametrize("text", ["", "10.0.0.1/33", "a..b", "10.0.0.1[tcp", "10.0.0.1[nosuch]", "10.0.0.1[tcp/70000]"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a traffic selector"):
        TrafficSelector.parse(text)


def test_hosts_and_dynamic_selectors_move_and_networks_stay() -> None:
    old, new = IPv4Address("10.1.1.2"), IPv4Address("10.2.2.2")
    assert str(TrafficSelector.parse("10.1.1.2/32[tcp/80]").moved(old, new)) == "10.2.2.2/32[6/80]"
    assert str(TrafficSelector.parse("dynamic").moved(old, new)) == "10.2.2.2/32"
    network = TrafficSelector.parse("10.1.0.0/16")
    assert network.moved(old, new) == network
    assert str(network) == "10.1.0.0..10.1.255.255"
