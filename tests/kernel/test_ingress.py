"""Nothing comes out of the carrier but what was admitted, whoever sent it and whatever it is wrapped in."""

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from pyroute2.netlink.rtnl import RTM_NEWLINK, RTM_NEWTFILTER, RTMGRP_LINK, RTMGRP_TC

from kernel.carrier_hosts import Hosts, IPAddress, address, family, on, xfrm_counter
from swanroam.kernel.carrier import Admitted, CarrierPlane, CarrierSettings
from swanroam.kernel.carrier_devices import IFF_UP
from swanroam.kernel.ingress import IKE_PORTS, Clear
from swanroam.kernel.rtnetlink import RouteSocket

pytestmark = pytest.mark.lab

VERSIONS = (4, 6)
ESP, UDP, TCP = 50, 17, 6
MARK = 0x77
LAST_PORT = 4500
SO_RCVMARK = 75


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    try:
        yield made
    finally:
        made.delete()


def _header(source: IPAddress, destination: IPAddress, protocol: int, length: int, fragment: int = 0) -> bytes:
    """An IP header; in IPv6, `fragment` (offset and flags as in IPv4) becomes a fragment header."""
    if source.version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 4711, fragment, 64, protocol, 0)
        head += source.packed + destination.packed
        total = sum(struct.unpack(">10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        return head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    extension = b""
    if fragment:
        more, offset = bool(fragment & 0x2000), fragment & 0x1FFF
        extension = struct.pack(">BBHI", protocol, 0, offset << 3 | more, 4711)
        protocol = 44
    length += len(extension)
    return struct.pack(">IHBB", 6 << 28, length, protocol, 64) + source.packed + destination.packed + extension


def _packet(source: IPAddress, destination: IPAddress, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    return _header(source, destination, protocol, len(payload), fragment) + payload


def _udp(source: IPAddress, destination: IPAddress, port: int, data: bytes = b"forged") -> bytes:
    length = 8 + len(data)
    datagram = struct.pack(">HHHH", 500, port, length, 0) + data
    pseudo = source.packed + destination.packed + struct.pack(">II", length, UDP) + datagram
    pseudo += b"\0" * (len(pseudo) % 2)
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return datagram[:6] + struct.pack(">H", ~total & 0xFFFF or 0xFFFF) + data


ESP_DATA = struct.pack(">II", 0x12345678, 1) + bytes(32)  # an SPI that nobody has


def _send(hosts: Hosts, version: int, inner: bytes) -> None:
    """The inner packet, in IP-in-IP from the router, which is nobody's peer."""
    outer = socket.IPPROTO_IPIP if version == 4 else socket.IPPROTO_IPV6
    with hosts.open_socket(hosts.router, family(version), socket.SOCK_RAW, outer) as sender:
        where = (str(address(version, "d")), 0, 0, 0) if version == 6 else (str(address(version, "d")), 0)
        sender.sendto(inner, where)


def _router(hosts: Hosts, version: int) -> IPAddress:
    """The outer source address of what `_send` sends."""
    with hosts.open_socket(hosts.router, family(version), socket.SOCK_DGRAM) as probe:
        probe.connect((str(address(version, "d")), 9))
        return ip_address(probe.getsockname()[0])


def _settle(hosts: Hosts, version: int) -> None:
    """Wait until all that was sent before has come through: a last datagram arrives after it."""
    remote, local = address(version, "c"), address(version, "d")
    with hosts.open_socket(hosts.correspondent, family(version), socket.SOCK_DGRAM) as ike:
        ike.bind((str(local), LAST_PORT))
        _send(hosts, version, _packet(remote, local, UDP, _udp(remote, local, LAST_PORT, b"last")))
        while ike.recv(100) != b"last":
            pass


def _dropped(hosts: Hosts, version: int) -> int:
    _settle(hosts, version)
    counts = on(hosts.correspondent, lambda netlink: CarrierPlane(netlink).dropped())
    return counts[family(version)]  # type: ignore[index]  # AddressFamily is an int


def _no_states(hosts: Hosts, version: int) -> int:
    """How many ESP packets have got as far as the search for their SA."""
    _settle(hosts, version)
    return xfrm_counter(hosts.correspondent, "XfrmInNoStates")


def _admit(hosts: Hosts, *admitted: Admitted) -> None:
    """These pairs, and the one by which a test knows that everything has arrived."""
    last = [Admitted(address(version, "c"), address(version, "d")) for version in VERSIONS]
    on(hosts.correspondent, lambda netlink: CarrierPlane(netlink).apply([], [], [*admitted, *last]))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_not_admitted_is_dropped_and_counted(hosts: Hosts, version: int) -> None:
    remote, local = address(version, "a"), address(version, "d")
    _admit(hosts)
    before, no_states = _dropped(hosts, version), _no_states(hosts, version)
    forged = [
        _packet(remote, local, ESP, ESP_DATA),
        _packet(remote, local, UDP, _udp(remote, local, 500)),
        _packet(remote, local, UDP, _udp(remote, local, 9)),
        _packet(remote, local, TCP, bytes(20)),
        _packet(remote, address(version, "a", 1), ESP, ESP_DATA),  # to be forwarded
    ]
    for inner in forged:
        _send(hosts, version, inner)
    assert _dropped(hosts, version) == before + len(forged)
    assert _no_states(hosts, version) == no_states


@pytest.mark.parametrize("version", VERSIONS)
def test_of_an_admitted_pair_only_esp_and_ike_pass(hosts: Hosts, version: int) -> None:
    remote, other, local = (address(version, network) for network in "abd")
    _admit(hosts, Admitted(remote, local))
    before, no_states = _dropped(hosts, version), _no_states(hosts, version)

    _send(hosts, version, _packet(remote, local, ESP, ESP_DATA))
    assert _no_states(hosts, version) == no_states + 1
    for port in IKE_PORTS:
        with hosts.open_socket(hosts.correspondent, family(version), socket.SOCK_DGRAM) as ike:
            ike.bind((str(local), port))
            _send(hosts, version, _packet(remote, local, UDP, _udp(remote, local, port)))
            assert ike.recv(100) == b"forged"
    assert _dropped(hosts, version) == before

    refused = [
        _packet(remote, local, UDP, _udp(remote, local, 9)),
        _packet(remote, local, TCP, bytes(20)),
        _packet(other, local, ESP, ESP_DATA),
        _packet(remote, address(version, "e"), ESP, ESP_DATA),
        _packet(local, remote, ESP, ESP_DATA),
        # IP-in-IP in IP-in-IP
        _packet(remote, local, 4 if version == 4 else 41, _packet(remote, local, ESP, ESP_DATA)),
    ]
    for inner in refused:
        _send(hosts, version, inner)
    assert _dropped(hosts, version) == before + len(refused)


@pytest.mark.parametrize("version", VERSIONS)
def test_fragments_pass_only_of_esp(hosts: Hosts, version: int) -> None:
    remote, local = address(version, "a"), address(version, "d")
    _admit(hosts, Admitted(remote, local))
    before, no_states = _dropped(hosts, version), _no_states(hosts, version)
    more, second = 0x2000, 2  # the second fragment begins at octet 16
    _send(hosts, version, _packet(remote, local, ESP, ESP_DATA[:16], more))
    _send(hosts, version, _packet(remote, local, ESP, ESP_DATA[16:], second))
    assert _no_states(hosts, version) == no_states + 1
    assert _dropped(hosts, version) == before

    datagram = _udp(remote, local, 500, os.urandom(24))
    _send(hosts, version, _packet(remote, local, UDP, datagram[:16], more))
    _send(hosts, version, _packet(remote, local, UDP, datagram[16:], second))
    assert _dropped(hosts, version) == before + 2


@pytest.mark.parametrize("version", VERSIONS)
def test_clear_inner_packets_pass_with_their_mark_and_protected_ones_with_another(hosts: Hosts, version: int) -> None:
    remote, local = address(version, "a"), address(version, "d")
    _admit(hosts, Admitted(remote, local, Clear(MARK, _router(hosts, version), local)))
    for port, mark in ((9, MARK), (500, CarrierSettings().admitted_mark)):
        with hosts.open_socket(hosts.correspondent, family(version), socket.SOCK_DGRAM) as receiver:
            receiver.setsockopt(socket.SOL_SOCKET, SO_RCVMARK, 1)
            receiver.bind((str(local), port))
            _send(hosts, version, _packet(remote, local, UDP, _udp(remote, local, port)))
            _, ancillary, _, _ = receiver.recvmsg(100, 100)
            assert [struct.unpack("I", data)[0] for _, kind, data in ancillary if kind == 36] == [mark]  # SO_MARK

    before = _dropped(hosts, version)
    _send(hosts, version, _packet(address(version, "b"), local, UDP, _udp(address(version, "b"), local, 9)))
    assert _dropped(hosts, version) == before + 1


@pytest.mark.parametrize("version", VERSIONS)
def test_clear_inner_packets_from_anybody_else_are_dropped(hosts: Hosts, version: int) -> None:
    """Their outer packet has no security policy to fail: that of the peer demands ESP, this one's is anybody's."""
    remote, local = address(version, "a"), address(version, "d")
    _admit(hosts, Admitted(remote, local, Clear(MARK, address(version, "b"), local)))
    before = _dropped(hosts, version)
    _send(hosts, version, _packet(remote, local, UDP, _udp(remote, local, 9)))
    assert _dropped(hosts, version) == before + 1


def test_a_pair_is_no_longer_admitted_after_it_is_withdrawn(hosts: Hosts) -> None:
    remote, local = address(4, "a"), address(4, "d")
    _admit(hosts, Admitted(remote, local, Clear(MARK, _router(hosts, 4), local)))
    _admit(hosts)
    before = _dropped(hosts, 4)
    _send(hosts, 4, _packet(remote, local, ESP, ESP_DATA))
    _send(hosts, 4, _packet(remote, local, UDP, _udp(remote, local, 9)))
    assert _dropped(hosts, 4) == before + 2


@pytest.mark.parametrize("rp_filter", [1, 2])
def test_reverse_path_filtering_everywhere_does_not_stop_the_first_packet(hosts: Hosts, rp_filter: int) -> None:
    """The way back to the source does not lead into the carrier yet."""
    remote, local = address(4, "a"), address(4, "d")
    on(hosts.correspondent, lambda netlink: CarrierPlane(netlink).clear())
    hosts.correspondent.sysctl(net__ipv4__conf__all__rp_filter=rp_filter)
    try:
        _admit(hosts, Admitted(remote, local))
        no_states = _no_states(hosts, 4)
        _send(hosts, 4, _packet(remote, local, ESP, ESP_DATA))
        assert _no_states(hosts, 4) == no_states + 1
    finally:
        hosts.correspondent.sysctl(net__ipv4__conf__all__rp_filter=0)


def test_the_default_drop_stands_before_the_device_is_up(hosts: Hosts) -> None:
    async def watch(netlink: RouteSocket) -> None:
        await CarrierPlane(netlink).clear()
        async with RouteSocket() as monitor:
            await monitor.bind(groups=RTMGRP_LINK | RTMGRP_TC)
            await CarrierPlane(netlink).arm([socket.AF_INET])
            closed = False
            while True:
                async for event in monitor.get():
                    kind = event["header"]["type"]
                    closed |= kind == RTM_NEWTFILTER and event.get_attr("TCA_KIND") == "matchall"
                    if kind == RTM_NEWLINK and event["flags"] & IFF_UP:
                        assert event.get_attr("IFLA_IFNAME") == "swanroam4"
                        assert closed
                        return

    on(hosts.correspondent, watch)
