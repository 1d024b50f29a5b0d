"""The capture analyser tells what is in clear from what is protected, at every layer of a packet."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from lab import analysis, pcap
from lab.addressing import IPAddress
from lab.analysis import Kind, Observation, reused_nonces

MOBILE = "10.1.1.2"
MOBILE_NEW = "10.2.2.2"
PEER = "10.3.3.2"
ROUTER = "10.1.1.1"
MOBILE6 = "2001:db8:a::2"
MOBILE6_NEW = "2001:db8:b::2"
PEER6 = "2001:db8:d::2"
PAIR = (
    {ip_address(text) for text in (MOBILE, MOBILE_NEW, MOBILE6, MOBILE6_NEW)},
    {ip_address(text) for text in (PEER, PEER6)},
)

ESP = struct.pack("!II", 0xC0FFEE01, 7) + bytes(60)
TCP = struct.pack("!HHIIBBHHH", 40000, 7, 1, 1, 0x50, 0x18, 1000, 0, 0) + b"SECRET"
ICMP_ECHO = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + bytes(48)
IKE = bytes(16) + bytes([33, 0x20, 34, 8]) + bytes(20)


def udp(source: int, destination: int, content: bytes) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(content), 0) + content


def ipv4(source: str, destination: str, protocol: int, payload: bytes, *, flags: int = 0, number: int = 0) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), number, flags, 64, protocol, 0) + addresses + payload


def ipv6(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    addresses = IPv6Address(source).packed + IPv6Address(destination).packed
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload


def savefile(*packets: bytes, link_type: int = pcap.RAW, order: str = "<", nanoseconds: bool = False) -> bytes:
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    for number, packet in enumerate(packets):
        data += struct.pack(f"{order}IIII", 1000 + number, 500, len(packet), len(packet)) + packet
    return data


def observed(*packets: bytes) -> list[Observation]:
    return analysis.observe(pcap.frames(savefile(*packets)), PAIR, {})


def kinds(*packets: bytes) -> list[Kind]:
    return [seen.kind for seen in observed(*packets)]


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (ipv4(MOBILE, PEER, 50, ESP), Kind.ESP),
        (ipv6(MOBILE6, PEER6, 50, ESP), Kind.ESP),
        (ipv4(PEER, MOBILE_NEW, 17, udp(500, 500, IKE)), Kind.IKE),
        (ipv4(PEER, MOBILE, 17, udp(4500, 4500, bytes(4) + IKE)), Kind.IKE),
        (ipv4(PEER, MOBILE, 17, udp(4500, 4500, ESP)), Kind.ESP_IN_UDP),
        (ipv4(PEER, MOBILE, 17, udp(4500, 4500, b"\xff")), Kind.ESP_IN_UDP),
        (ipv4(MOBILE_NEW, PEER, 4, ipv4(MOBILE, PEER, 50, ESP)), Kind.ESP_IN_IPIP),
        (ipv6(MOBILE6_NEW, PEER6, 41, ipv6(MOBILE6, PEER6, 50, ESP)), Kind.ESP_IN_IPIP),
        (ipv4(MOBILE_NEW, PEER, 4, ipv4(MOBILE, PEER, 17, udp(4500, 4500, bytes(4) + IKE))), Kind.IKE_IN_IPIP),
        (ipv6(MOBILE6, PEER6, 58, bytes([135, 0]) + bytes(22)), Kind.LINK),
    ],
)
def test_protected_packets_are_told_by_their_kind(packet: bytes, kind: Kind) -> None:
    assert kinds(packet) == [kind]
    assert not kind.clear


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (ipv4(MOBILE, PEER, 6, TCP), Kind.CLEAR),
        (ipv4(PEER, MOBILE, 1, ICMP_ECHO), Kind.CLEAR),
        (ipv6(MOBILE6, PEER6, 17, udp(4510, 4510, b"move")), Kind.CLEAR),
        (ipv4(MOBILE, PEER, 17, udp(500, 500, b"not IKE at all, but on its port")), Kind.CLEAR),
        (ipv4(MOBILE, PEER, 17, udp(4500, 4500, bytes(4) + b"nor this one, behind the marker")), Kind.CLEAR),
        (ipv4(MOBILE, PEER, 51, bytes(40)), Kind.CLEAR),
        (ipv4(MOBILE_NEW, PEER, 4, ipv4(MOBILE, PEER, 6, TCP)), Kind.CLEAR_IN_IPIP),
        (ipv6(MOBILE6_NEW, PEER6, 41, ipv6(MOBILE6, PEER6, 6, TCP)), Kind.CLEAR_IN_IPIP),
        (ipv4(MOBILE_NEW, PEER, 41, ipv6(MOBILE6, PEER6, 6, TCP)), Kind.CLEAR_IN_IPIP),
        (ipv4(MOBILE_NEW, PEER, 4, ipv4(MOBILE_NEW, PEER, 4, ipv4(MOBILE, PEER, 6, TCP))), Kind.CLEAR_IN_IPIP),
        (ipv6(MOBILE6_NEW, PEER6, 41, ipv6(MOBILE6, PEER6, 58, bytes([135, 0]) + bytes(22))), Kind.CLEAR_IN_IPIP),
        (ipv4(MOBILE_NEW, PEER, 4, b"\x45\x00 cut off"), Kind.CLEAR),
    ],
)
def test_packets_in_clear_are_found_at_every_layer(packet: bytes, kind: Kind) -> None:
    assert kinds(packet) == [kind]
    assert kind.clear


def test_a_tunnel_between_strangers_that_carries_the_pairs_clear_packet_is_found() -> None:
    assert kinds(ipv4("192.0.2.1", "192.0.2.2", 4, ipv4(MOBILE, PEER, 6, TCP))) == [Kind.CLEAR_IN_IPIP]


def test_a_clear_packet_inside_esp_is_not_seen() -> None:
    assert kinds(ipv4(MOBILE, PEER, 50, ESP[:8] + ipv4(MOBILE, PEER, 6, TCP))) == [Kind.ESP]


def test_what_the_router_and_others_say_is_not_between_the_hosts() -> None:
    unreachable = bytes([3, 1]) + bytes(6) + ipv4(MOBILE, PEER, 50, ESP)
    assert not observed(ipv4(ROUTER, MOBILE, 1, unreachable), ipv4(MOBILE, ROUTER, 1, ICMP_ECHO))


def test_an_ipv6_extension_header_hides_nothing() -> None:
    options = bytes([6, 0]) + bytes(6)
    assert kinds(ipv6(MOBILE6, PEER6, 60, options + TCP)) == [Kind.CLEAR]
    encapsulation_limit = bytes([41, 0, 4, 1, 4, 1, 0, 0])
    assert kinds(ipv6(MOBILE6_NEW, PEER6, 60, encapsulation_limit + ipv6(MOBILE6, PEER6, 50, ESP))) == [
        Kind.ESP_IN_IPIP
    ]


def test_fragments_are_what_their_first_one_was() -> None:
    inner = ipv4(MOBILE, PEER, 50, ESP)
    first = ipv4(MOBILE_NEW, PEER, 4, inner[:40], flags=0x2000, number=77)
    second = ipv4(MOBILE_NEW, PEER, 4, inner[40:], flags=5, number=77)
    assert kinds(first, second) == [Kind.ESP_IN_IPIP, Kind.ESP_IN_IPIP]

    datagram = udp(5000, 5000, bytes(64))
    clear_first = ipv4(MOBILE, PEER, 17, datagram[:32], flags=0x2000, number=78)
    clear_second = ipv4(MOBILE, PEER, 17, datagram[32:], flags=4, number=78)
    assert kinds(clear_first, clear_second) == [Kind.CLEAR, Kind.CLEAR]

    assert kinds(second) == [Kind.CLEAR]  # nothing is known of its beginning


def test_a_fragment_of_esp_is_esp_by_its_own_header() -> None:
    assert kinds(ipv4(MOBILE, PEER, 50, bytes(32), flags=4, number=9)) == [Kind.ESP]


def test_an_observation_explains_itself() -> None:
    (seen,) = observed(ipv4(MOBILE_NEW, PEER, 4, ipv4(MOBILE, PEER, 6, TCP)))
    assert str(seen) == (
        "1000.000500 ?: 10.2.2.2 > 10.3.3.2 IP-in-IP [10.1.1.2 > 10.3.3.2 TCP 40000 > 7 ACK PSH, 6 bytes]"
        " (in clear inside IP-in-IP)"
    )
    (esp,) = observed(ipv6(MOBILE6, PEER6, 50, ESP))
    assert "ESP spi 0xc0ffee01 seq 7" in str(esp)


def test_packets_are_counted_by_kind() -> None:
    seen = observed(ipv4(MOBILE, PEER, 50, ESP), ipv4(PEER, MOBILE, 50, ESP), ipv4(MOBILE, PEER, 6, TCP))
    assert analysis.counts(seen) == {Kind.ESP: 2, Kind.CLEAR: 1}


def esp(sequence: int, iv: bytes, content: bytes, spi: int = 0xC0FFEE01) -> bytes:
    return ipv4(MOBILE, PEER, 50, struct.pack("!II", spi, sequence) + iv + content)


def test_a_nonce_that_is_used_for_two_contents_is_found() -> None:
    one, other = (bytes([letter]) * 8 for letter in b"ab")
    first = esp(7, one, b"content")

    assert not reused_nonces(observed(first, first, esp(8, other, b"different"), esp(7, one, b"different", spi=1)))
    for second in (esp(7, one, b"different"), esp(7, other, b"content"), esp(8, one, b"content")):
        ((before, after),) = reused_nonces(observed(first, second))[:1]
        assert before.packet.payload != after.packet.payload
        carried = ipv4(MOBILE_NEW, PEER, 4, second)
        assert reused_nonces(observed(first, carried)), "inside the carrier as well"
    assert not reused_nonces(observed(first, ipv4(MOBILE_NEW, PEER, 4, first)))
    elsewhere = ipv4(MOBILE_NEW, PEER, 50, struct.pack("!II", 0xC0FFEE01, 7) + other + b"moved with its SA")
    assert reused_nonces(observed(first, elsewhere)), "whatever address it comes from"


def cooked_v2(device: int, kind: int, packet: bytes) -> bytes:
    return struct.pack("!HHIHBB", 0x0800, 0, device, 1, kind, 6) + bytes(8) + packet


def test_a_cooked_capture_tells_the_leg_and_counts_a_forwarded_packet_once() -> None:
    packet = ipv4(MOBILE, PEER, 50, ESP)
    data = savefile(cooked_v2(3, 0, packet), cooked_v2(5, pcap.OUTGOING, packet), link_type=pcap.COOKED_V2)

    seen = analysis.observe(pcap.frames(data), PAIR, {3: "net-a", 5: "net-d"})

    assert [observation.leg for observation in seen] == ["net-a"]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("nanoseconds", "time"), [(False, 1000.0005), (True, 1000.0000005)])
def test_both_byte_orders_and_units_of_time_are_read(order: str, nanoseconds: bool, time: float) -> None:
    packet = bytes(12) + b"\x08\x00" + ipv4(MOBILE, PEER, 50, ESP) + b"padding of the link"
    data = savefile(packet, link_type=pcap.ETHERNET, order=order, nanoseconds=nanoseconds)

    (frame,) = pcap.frames(data)
    parsed = pcap.parse(frame)

    assert frame.time == pytest.approx(time, abs=1e-9)
    assert parsed is not None
    assert parsed.payload == ESP


def test_a_record_that_is_still_being_written_ends_the_reading() -> None:
    data = savefile(ipv4(MOBILE, PEER, 50, ESP), ipv4(MOBILE, PEER, 6, TCP))
    assert len(list(pcap.frames(data[:-3]))) == 1
    assert len(list(pcap.frames(data[: -len(ipv4(MOBILE, PEER, 6, TCP)) - 5]))) == 1


def test_what_is_no_capture_is_refused() -> None:
    with pytest.raises(pcap.CaptureFormatError, match="no pcap file"):
        list(pcap.frames(b"\x0a\x0d\x0d\x0a" + bytes(40)))
    with pytest.raises(pcap.CaptureFormatError, match="link type 147"):
        list(pcap.frames(savefile(b"x" * 40, link_type=147)))


@pytest.mark.parametrize("ethertype", [0x0806, 0x88CC])
def test_what_is_not_ip_is_passed_over(ethertype: int) -> None:
    assert pcap.parse(pcap.Frame(0.0, None, False, ethertype, bytes(60))) is None


def test_addresses_of_both_hosts_are_needed() -> None:
    def address(text: str) -> IPAddress:
        return ip_address(text)

    layer = pcap.Layer(address(MOBILE), address(MOBILE_NEW), 6)
    assert not analysis.is_between(pcap.Packet((layer,), TCP), PAIR)
