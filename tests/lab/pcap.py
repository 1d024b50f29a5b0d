"""Capture files and the packets in them, taken apart layer by layer with `struct` alone.

Formats: pcap (pcap-savefile(5)) with link types Ethernet, raw IP, Linux cooked v1 and v2 (pcap-linktype(7)).
A packet is a chain of IP headers (IP-in-IP, RFC 2003 and RFC 2473) and what the innermost one carries.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from lab.addressing import IPAddress

ETHERNET, RAW, COOKED, COOKED_V2 = 1, 101, 113, 276
ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
OUTGOING = 4  # packet type of a cooked header (linux/if_packet.h)

IPV4_IN_IP, TCP, UDP, IPV6_IN_IP, ESP, ICMP, ICMPV6 = 4, 6, 17, 41, 50, 1, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60


class CaptureFormatError(ValueError):
    """The file is not a capture, or of a kind that is not read here."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured frame, link layer taken off."""

    time: float
    """Seconds since the epoch."""
    device: int | None
    """Interface index, where the format has it."""
    outgoing: bool
    """Sent by the capturing host (cooked formats)."""
    ethertype: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Layer:
    """One IP header."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    """What it carries, extension headers passed over."""
    fragment_offset: int = 0
    fragment_id: int | None = None
    """Set when the packet is a fragment."""


@dataclass(frozen=True, slots=True)
class Packet:
    """IP headers from the outside in, and what the innermost carries (as far as captured)."""

    layers: tuple[Layer, ...]
    payload: bytes

    @property
    def inner(self) -> Layer:
        return self.layers[-1]


def frames(data: bytes) -> Iterator[Frame]:
    """Frames of a pcap file. A record cut short at the end (capture still running) ends the iteration."""
    magics = {b"\xd4\xc3\xb2\xa1": ("<", 1e-6), b"\xa1\xb2\xc3\xd4": (">", 1e-6)}
    magics |= {b"\x4d\x3c\xb2\xa1": ("<", 1e-9), b"\xa1\xb2\x3c\x4d": (">", 1e-9)}
    if data[:4] not in magics or len(data) < 24:
        raise CaptureFormatError(f"no pcap file: begins with {data[:4].hex() or 'nothing'}")
    order, unit = magics[data[:4]]
    (link_type,) = struct.unpack_from(f"{order}I", data, 20)
    position = 24
    while position + 16 <= len(data):
        seconds, fraction, captured, _ = struct.unpack_from(f"{order}IIII", data, position)
        position += 16
        if position + captured > len(data):
            return
        yield _frame(link_type & 0xFFFF, seconds + fraction * unit, data[position : position + captured])
        position += captured


def _frame(link_type: int, time: float, data: bytes) -> Frame:
    if link_type == COOKED_V2:
        ethertype, _, device, _, kind = struct.unpack_from("!HHIHB", data)
        return Frame(time, device, kind == OUTGOING, ethertype, data[20:])
    if link_type == COOKED:
        (kind,) = struct.unpack_from("!H", data)
        return Frame(time, None, kind == OUTGOING, struct.unpack_from("!H", data, 14)[0], data[16:])
    if link_type == ETHERNET:
        return Frame(time, None, False, struct.unpack_from("!H", data, 12)[0], data[14:])
    if link_type == RAW:
        return Frame(time, None, False, ETHERTYPE_IPV4 if data[0] >> 4 == 4 else ETHERTYPE_IPV6, data)
    raise CaptureFormatError(f"link type {link_type} is not read here")


def read(path: Path) -> list[Frame]:
    """All frames of a file."""
    return list(frames(path.read_bytes()))


def parse(frame: Frame) -> Packet | None:
    """The packet in a frame; None when it is not IP, or cut off inside its first header."""
    if frame.ethertype == ETHERTYPE_IPV4:
        return _layers(frame.payload, IPV4_IN_IP)
    if frame.ethertype == ETHERTYPE_IPV6:
        return _layers(frame.payload, IPV6_IN_IP)
    return None


def _layers(data: bytes, protocol: int) -> Packet | None:
    layers: list[Layer] = []
    while protocol in (IPV4_IN_IP, IPV6_IN_IP) and not (layers and layers[-1].fragment_offset):
        parsed = _ipv4(data) if protocol == IPV4_IN_IP else _ipv6(data)
        if parsed is None:
            break
        layer, data = parsed
        layers.append(layer)
        protocol = layer.protocol
    return Packet(tuple(layers), data) if layers else None


def _ipv4(data: bytes) -> tuple[Layer, bytes] | None:
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    header = (data[0] & 0xF) * 4
    length, identification, flags = struct.unpack_from("!HHH", data, 2)
    offset = (flags & 0x1FFF) * 8
    fragmented = bool(offset or flags & 0x2000)
    layer = Layer(
        IPv4Address(data[12:16]), IPv4Address(data[16:20]), data[9], offset, identification if fragmented else None
    )
    return layer, data[header : max(length, header)]  # Ethernet pads what is short


def _ipv6(data: bytes) -> tuple[Layer, bytes] | None:
    if len(data) < 40 or data[0] >> 4 != 6:
        return None
    (length,) = struct.unpack_from("!H", data, 4)
    source, destination = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    protocol, rest = data[6], data[40 : 40 + length]
    offset, identification = 0, None
    while protocol in (_HOP_BY_HOP, _ROUTING, _DESTINATION, _FRAGMENT) and len(rest) >= 8 and not offset:
        following = rest[0]
        if protocol == _FRAGMENT:
            offset = struct.unpack_from("!H", rest, 2)[0] & 0xFFF8
            (identification,) = struct.unpack_from("!I", rest, 4)
            rest = rest[8:]
        else:
            rest = rest[8 + rest[1] * 8 :]
        protocol = following
    return Layer(source, destination, protocol, offset, identification), rest
