"""A second reader of the wire format, written from docs/protocol.md alone. It shows that the document is enough.

Imports nothing of swanroam. `read` gives a message in the form of docs/vectors/messages.json, or raises DroppedError.
"""

from __future__ import annotations

import ipaddress
import struct
import unicodedata
from collections.abc import Callable
from typing import Any

Value = Any  # what JSON can hold


class DroppedError(Exception):
    """A receiver drops this datagram."""


def read(datagram: bytes) -> dict[str, Value]:
    """The message, its fields by their names in the document, octets as hex."""
    if not 4 <= len(datagram) <= 1024 or datagram[:2] != b"SR" or datagram[2] != 1:
        raise DroppedError("header")
    if datagram[3] not in MESSAGES:
        raise DroppedError("type")
    message, wanted = MESSAGES[datagram[3]]
    fields = split(datagram[4:])
    for number, _ in fields:
        if number & 0x80 and number not in FIELDS:
            raise DroppedError("unknown critical field")
    found: dict[str, Value] = {"type": message}
    for name in wanted:
        values = [value for number, value in fields if FIELDS.get(number) == name.rstrip("*?")]
        if name.endswith("*"):
            found[name[:-1]] = [_address(value) for value in values]
            if len(values) > 8 or len(set(values)) < len(values):
                raise DroppedError(name)
        elif values or not name.endswith("?"):
            if len(values) != 1:
                raise DroppedError(name)
            found[name.rstrip("?")] = READERS[name.rstrip("?")](values[0])
    if "old sender" in found:
        ends = ("old sender", "old receiver", "new sender", "new receiver")
        if len({ipaddress.ip_address(found[end]).version for end in ends}) > 1:
            raise DroppedError("families")
    return found


def split(octets: bytes) -> list[tuple[int, bytes]]:
    """The fields behind the header: type and value of each."""
    fields = []
    while octets:
        if len(octets) < 3:
            raise DroppedError("truncated")
        number, length = struct.unpack_from("!BH", octets)
        if len(octets) < 3 + length:
            raise DroppedError("truncated")
        fields.append((number, octets[3 : 3 + length]))
        octets = octets[3 + length :]
    if len(fields) > 32:
        raise DroppedError("too many fields")
    return fields


def _octets(size: int) -> Callable[[bytes], str]:
    def convert(value: bytes) -> str:
        if len(value) != size:
            raise DroppedError("size")
        return value.hex()

    return convert


def _number(size: int, lowest: int, highest: int) -> Callable[[bytes], int]:
    def convert(value: bytes) -> int:
        if len(value) != size or not lowest <= (number := int.from_bytes(value, "big")) <= highest:
            raise DroppedError("number")
        return number

    return convert


def _address(value: bytes) -> str:
    if len(value) not in (4, 16):
        raise DroppedError("address")
    return str(ipaddress.ip_address(value))


def _text(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise DroppedError("UTF-8") from None
    if len(value) > 200 or any(unicodedata.category(sign)[0] in "CZ" for sign in text.replace(" ", "")):
        raise DroppedError("text")
    return text


def _short_text(value: bytes) -> str:
    if len(value) > 32:
        raise DroppedError("software")
    return _text(value)


def _connections(value: bytes) -> list[list[int]]:
    if len(value) % 10 or len(value) > 640:
        raise DroppedError("connections")
    found = [list(struct.unpack_from("!BHHBI", value, at)) for at in range(0, len(value), 10)]
    for connection in found:
        protocol, port, remote_port, obstacle, _ = connection
        if protocol not in (6, 17) or not port or not remote_port:
            raise DroppedError("connection")
        connection[3] = obstacle if obstacle <= 14 else 10
    if len({tuple(connection[:3]) for connection in found}) < len(found):
        raise DroppedError("a connection twice")
    return found


FIELDS = {
    0x81: "sequence",
    0x82: "handover",
    0x83: "nonce",
    0x84: "current",
    0x85: "deprecated",
    0x86: "verdict",
    0x87: "challenge",
    0x88: "last sequence",
    0x89: "method",
    0x8A: "stage",
    0x8B: "transfer",
    0x8C: "transfer stage",
    0x8D: "old sender",
    0x8E: "old receiver",
    0x8F: "new sender",
    0x90: "new receiver",
    0x91: "connections",
    0x01: "grace",
    0x02: "reason",
    0x03: "instance",
    0x04: "software",
}
READERS: dict[str, Callable[[bytes], Value]] = {
    "sequence": _number(8, 0, 2**63),
    "handover": _octets(8),
    "nonce": _octets(16),
    "current": _address,
    "verdict": _number(1, 0, 6),
    "challenge": _octets(16),
    "last sequence": _number(8, 0, 2**63),
    "method": _number(1, 0, 1),
    "stage": _number(1, 1, 2),
    "transfer": _number(4, 0, 2**32 - 1),
    "transfer stage": _number(1, 1, 4),
    "old sender": _address,
    "old receiver": _address,
    "new sender": _address,
    "new receiver": _address,
    "connections": _connections,
    "grace": _number(4, 0, 2**32 - 1),
    "reason": _text,
    "instance": _octets(8),
    "software": _short_text,
}
_TRANSFER = ("sequence", "handover", "transfer", "transfer stage")
MESSAGES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "address change",
        ("sequence", "handover", "nonce", "current", "deprecated*", "method", "instance", "software?"),
    ),
    2: (
        "acknowledgment",
        (
            "sequence",
            "handover",
            "nonce",
            "verdict",
            "last sequence",
            "grace",
            "reason",
            "instance",
            "software?",
            "challenge?",
        ),
    ),
    3: ("path response", ("sequence", "handover", "challenge")),
    4: ("filters request", ("sequence", "handover", "stage")),
    5: ("filters reply", ("sequence", "handover", "stage", "reason")),
    6: (
        "transfer request",
        (*_TRANSFER, "connections", "old sender", "old receiver", "new sender", "new receiver"),
    ),
    7: ("transfer reply", (*_TRANSFER, "connections")),
}
"""Fields of each message; * any number of times, ? once or not at all."""
