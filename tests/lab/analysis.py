"""What passed between two hosts: protected, or in clear.

Protected is ESP, IKE, and IP-in-IP around these. Everything else between any address of one host and any address
of the other, at any layer of a packet, is in clear, also inside bare IP-in-IP. What a router says (ICMP errors)
and what a link needs (ARP, neighbour discovery, MLD) is not between the two hosts.
"""

import struct
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from lab import pcap
from lab.addressing import IPAddress
from lab.pcap import Frame, Layer, Packet

Pair = tuple[Collection[IPAddress], Collection[IPAddress]]
"""All addresses of one host, all addresses of the other."""

IKE_PORT, NAT_T_PORT = 500, 4500
IKE_VERSION = 0x20  # RFC 7296 §3.1; at this place of the header
_ESP_AND_IV = 16  # SPI, sequence number, and the IV of AES-GCM
_NEIGHBOUR_DISCOVERY = range(133, 138)  # RFC 4861
_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 47: "GRE", 51: "AH", 58: "ICMPv6", 108: "IPComp"}
_TCP_FLAGS = ((0x02, "SYN"), (0x10, "ACK"), (0x08, "PSH"), (0x01, "FIN"), (0x04, "RST"))


class Kind(Enum):
    """What a packet between two hosts is."""

    ESP = "ESP"
    ESP_IN_IPIP = "ESP in IP-in-IP"
    ESP_IN_UDP = "ESP in UDP"
    ESP_IN_UDP_IN_IPIP = "ESP in UDP in IP-in-IP"
    IKE = "IKE"
    IKE_IN_IPIP = "IKE in IP-in-IP"
    LINK = "neighbour discovery"
    CLEAR = "in clear"
    CLEAR_IN_IPIP = "in clear inside IP-in-IP"

    @property
    def clear(self) -> bool:
        return self in (Kind.CLEAR, Kind.CLEAR_IN_IPIP)


_IN_IPIP = {
    Kind.ESP: Kind.ESP_IN_IPIP,
    Kind.ESP_IN_UDP: Kind.ESP_IN_UDP_IN_IPIP,
    Kind.IKE: Kind.IKE_IN_IPIP,
    Kind.LINK: Kind.CLEAR_IN_IPIP,  # no link lies inside a tunnel
    Kind.CLEAR: Kind.CLEAR_IN_IPIP,
}


@dataclass(frozen=True, slots=True)
class Observation:
    """One packet between two hosts, seen as it came to the router."""

    time: float
    """Seconds since the epoch."""
    leg: str
    """The router's leg that it came in by; "?" where the capture does not tell."""
    kind: Kind
    packet: Packet

    def __str__(self) -> str:
        return f"{self.time:.6f} {self.leg}: {describe(self.packet)} ({self.kind.value})"

    __repr__ = __str__


def describe(packet: Packet) -> str:
    """The packet in one line: `10.2.2.2 > 10.3.3.2 IP-in-IP [10.1.1.2 > 10.3.3.2 TCP 40000 > 7 PSH ACK, 5 bytes]`."""
    text = ""
    for layer in packet.layers[:-1]:
        text += f"{layer.source} > {layer.destination} IP-in-IP ["
    inner = packet.inner
    text += f"{inner.source} > {inner.destination} {_payload(inner, packet.payload)}"
    return text + "]" * (len(packet.layers) - 1)


def _payload(layer: Layer, data: bytes) -> str:
    name = _PROTOCOLS.get(layer.protocol, f"protocol {layer.protocol}")
    if layer.fragment_offset:
        return f"{name} fragment at {layer.fragment_offset}"
    if layer.protocol == pcap.ESP and len(data) >= 8:
        spi, sequence = struct.unpack_from("!II", data)
        return f"ESP spi {spi:#010x} seq {sequence}"
    if layer.protocol == pcap.TCP and len(data) >= 20:
        source, destination = struct.unpack_from("!HH", data)
        flags = " ".join(word for bit, word in _TCP_FLAGS if data[13] & bit)
        return f"TCP {source} > {destination} {flags}, {len(data) - (data[12] >> 4) * 4} bytes"
    if layer.protocol == pcap.UDP and len(data) >= 8:
        source, destination = struct.unpack_from("!HH", data)
        return f"UDP {source} > {destination}, {len(data) - 8} bytes"
    if layer.protocol in (pcap.ICMP, pcap.ICMPV6) and len(data) >= 2:
        return f"{name} type {data[0]} code {data[1]}"
    return f"{name}, {len(data)} bytes"


def _is_ike(data: bytes) -> bool:
    """An IKE header: version 2 after the two SPIs and the next payload."""
    return len(data) >= 28 and data[17] == IKE_VERSION


def _udp(data: bytes) -> Kind:
    if len(data) < 9:
        return Kind.CLEAR
    ports = struct.unpack_from("!HH", data)
    content = data[8:]
    if NAT_T_PORT in ports:
        if content[:4] == bytes(4):  # non-ESP marker, RFC 3948 §2.2
            return Kind.IKE if _is_ike(content[4:]) else Kind.CLEAR
        if content == b"\xff" or len(content) >= 8:  # keepalive, RFC 3948 §2.3; SPI and sequence number
            return Kind.ESP_IN_UDP
    if IKE_PORT in ports and _is_ike(content):
        return Kind.IKE
    return Kind.CLEAR


class Classifier:
    """Remembers what first fragments were: the others of the same packet show neither ports nor inner headers."""

    def __init__(self) -> None:
        self._fragments: dict[tuple[IPAddress, IPAddress, int | None], Kind] = {}

    def kind(self, packet: Packet) -> Kind:
        """What this packet is, whoever it is between."""
        inner = packet.inner
        if inner.fragment_offset and inner.protocol != pcap.ESP:
            unknown = Kind.CLEAR if len(packet.layers) == 1 else Kind.CLEAR_IN_IPIP
            return self._fragments.get((inner.source, inner.destination, inner.fragment_id), unknown)
        kind = _innermost(inner, packet.payload)
        if len(packet.layers) > 1:
            kind = _IN_IPIP.get(kind, kind)
        for layer in packet.layers:
            if layer.fragment_id is not None and not layer.fragment_offset:
                self._fragments[layer.source, layer.destination, layer.fragment_id] = kind
        return kind


def _innermost(layer: Layer, data: bytes) -> Kind:
    if layer.protocol == pcap.ESP:
        return Kind.ESP
    if layer.protocol == pcap.ICMPV6 and data and data[0] in _NEIGHBOUR_DISCOVERY:
        return Kind.LINK
    return _udp(data) if layer.protocol == pcap.UDP else Kind.CLEAR


def is_between(packet: Packet, pair: Pair) -> bool:
    """Whether any layer of the packet goes from one host to the other."""
    one, other = pair
    return any(
        (layer.source in one and layer.destination in other) or (layer.source in other and layer.destination in one)
        for layer in packet.layers
    )


def observe(frames: Iterable[Frame], pair: Pair, legs: Mapping[int, str]) -> list[Observation]:
    """Packets between two hosts, each once: as it came in. `legs`: names of the router's devices by index."""
    one, other = frozenset(pair[0]), frozenset(pair[1])
    classifier = Classifier()
    found = []
    for frame in frames:
        packet = None if frame.outgoing else pcap.parse(frame)
        if packet is not None and is_between(packet, (one, other)):
            leg = "?" if frame.device is None else legs.get(frame.device, f"device {frame.device}")
            found.append(Observation(frame.time, leg, classifier.kind(packet), packet))
    return found


def reused_nonces(observations: Iterable[Observation]) -> list[tuple[Observation, Observation]]:
    """ESP packets of one SPI that have the sequence number, or the first 8 bytes of the IV, of another content.

    With AES-GCM these 8 bytes and the key's salt are the nonce (RFC 4106 §3.1, §4), and two packets with the same one
    betray both. The same packet seen again is no other. Content is compared as far as both were captured.
    """
    first: dict[tuple[str, int, bytes], Observation] = {}
    found = []
    for seen in observations:
        data = seen.packet.payload
        if seen.packet.inner.protocol != pcap.ESP or seen.packet.inner.fragment_offset or len(data) < _ESP_AND_IV:
            continue
        (spi,) = struct.unpack_from("!I", data)
        for key in (("sequence", spi, data[4:8]), ("IV", spi, data[8:_ESP_AND_IV])):
            before = first.setdefault(key, seen)
            length = min(len(before.packet.payload), len(data))
            if before.packet.payload[:length] != data[:length]:
                found.append((before, seen))
    return found


def counts(observations: Iterable[Observation]) -> Counter[Kind]:
    """How many packets of each kind."""
    return Counter(observation.kind for observation in observations)
