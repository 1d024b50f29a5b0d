"""Messages between two controllers, and their encoding.

A datagram is a header of four bytes and a list of fields, all numbers big-endian:

    magic "SR" (2) | version (1) | message type (1) | field*        field = type (1) | length (2) | value

A field whose type has bit 0x80 set is critical, as in IKEv2 (RFC 7296 §2.5): a receiver that does not know it drops
the message. Other unknown fields are skipped, so that later versions can say more. Everything is bounded: the size of
a datagram, the number of fields, the number of addresses, the length of a text.

The datagrams travel inside the control CHILD_SA only; secrecy, integrity and replay protection are ESP's
(RFC 4303 §3.4.3). The codec still trusts nothing: whatever is malformed raises MessageError, and nothing else.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import TypeVar

from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    INSTANCE_SIZE,
    MAX_CONNECTIONS,
    MAX_DEPRECATED,
    MAX_GRACE_MS,
    MAX_SEQUENCE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    Connection,
    FiltersReply,
    FiltersRequest,
    IPAddress,
    Message,
    Method,
    Obstacle,
    PathResponse,
    Stage,
    TransferReply,
    TransferRequest,
    TransferStage,
    Transport,
    Verdict,
)

MAGIC = b"SR"
VERSION = 1
MAX_DATAGRAM = 1024
"""Bytes. Well under the 1280 of IPv6 less the headers of ESP in IP-in-IP, so that no message is ever fragmented."""
MAX_FIELDS = 32
MAX_REASON = 200
"""Bytes of UTF-8 in a reason given to the peer's operator."""
MAX_SOFTWARE = 32
"""Bytes of UTF-8 in the name of a version."""
_CRITICAL = 0x80
_HEADER = struct.Struct("!2sBB")
_FIELD = struct.Struct("!BH")
_CONNECTION = struct.Struct("!BHHBI")


class MessageType(enum.IntEnum):
    """What a datagram is."""

    ADDRESS_CHANGE = 1
    ACKNOWLEDGMENT = 2
    PATH_RESPONSE = 3
    FILTERS_REQUEST = 4
    FILTERS_REPLY = 5
    TRANSFER_REQUEST = 6
    TRANSFER_REPLY = 7


class Field(enum.IntEnum):
    """Field types. Those with bit 0x80 are critical."""

    SEQUENCE = 0x81
    HANDOVER = 0x82
    NONCE = 0x83
    CURRENT = 0x84
    DEPRECATED = 0x85
    VERDICT = 0x86
    CHALLENGE = 0x87
    LAST_SEQUENCE = 0x88
    METHOD = 0x89
    STAGE = 0x8A
    TRANSFER = 0x8B
    TRANSFER_STAGE = 0x8C
    OLD_SENDER = 0x8D
    OLD_RECEIVER = 0x8E
    NEW_SENDER = 0x8F
    NEW_RECEIVER = 0x90
    CONNECTIONS = 0x91
    GRACE = 0x01
    REASON = 0x02
    INSTANCE = 0x03
    SOFTWARE = 0x04


class MessageProblem(enum.Enum):
    """Why a datagram was dropped; the values are the names of the counters in `status`."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    NOT_OURS = "not_ours"
    VERSION = "unsupported_version"
    UNKNOWN_TYPE = "unknown_type"
    TRUNCATED = "truncated_field"
    TOO_MANY_FIELDS = "too_many_fields"
    UNKNOWN_CRITICAL = "unknown_critical_field"
    DUPLICATE = "duplicate_field"
    MISSING = "missing_field"
    BAD_VALUE = "bad_value"


class MessageError(Exception):
    """The datagram is not a message we can act on. Counted and dropped; never a reason to change state."""

    def __init__(self, problem: MessageProblem, detail: str) -> None:
        super().__init__(f"{problem.value}: {detail}")
        self.problem = problem


_E = TypeVar("_E", bound=enum.IntEnum)


def encode(message: Message) -> bytes:
    """The datagram for a message. Raises ValueError when a value breaks the limits above (our own mistake)."""
    fields: list[tuple[Field, bytes]] = [
        (Field.SEQUENCE, _number(message.sequence, 8, MAX_SEQUENCE)),
        (Field.HANDOVER, _sized(message.handover, HANDOVER_SIZE)),
    ]
    match message:
        case AddressChange():
            kind = MessageType.ADDRESS_CHANGE
            if len(set(message.deprecated)) != len(message.deprecated):
                raise ValueError("a deprecated address stands twice")
            if len(message.deprecated) > MAX_DEPRECATED:
                raise ValueError(f"{len(message.deprecated)} deprecated addresses, at most {MAX_DEPRECATED} fit")
            fields += [
                (Field.NONCE, _sized(message.nonce, NONCE_SIZE)),
                (Field.CURRENT, message.current.packed),
                *((Field.DEPRECATED, address.packed) for address in message.deprecated),
                (Field.METHOD, bytes([message.method])),
                (Field.INSTANCE, _sized(message.instance, INSTANCE_SIZE)),
                *_software(message.software),
            ]
        case Acknowledgment():
            kind = MessageType.ACKNOWLEDGMENT
            fields += [
                (Field.NONCE, _sized(message.nonce, NONCE_SIZE)),
                (Field.VERDICT, bytes([message.verdict])),
                (Field.LAST_SEQUENCE, _number(message.last_sequence, 8, MAX_SEQUENCE)),
                (Field.GRACE, _number(message.grace_ms, 4, MAX_GRACE_MS)),
                (Field.REASON, _text(message.reason)),
                (Field.INSTANCE, _sized(message.instance, INSTANCE_SIZE)),
                *_software(message.software),
            ]
            if message.challenge is not None:
                fields.append((Field.CHALLENGE, _sized(message.challenge, NONCE_SIZE)))
        case PathResponse():
            kind = MessageType.PATH_RESPONSE
            fields.append((Field.CHALLENGE, _sized(message.challenge, NONCE_SIZE)))
        case FiltersRequest():
            kind = MessageType.FILTERS_REQUEST
            fields.append((Field.STAGE, bytes([message.stage])))
        case FiltersReply():
            kind = MessageType.FILTERS_REPLY
            fields += [(Field.STAGE, bytes([message.stage])), (Field.REASON, _text(message.reason))]
        case TransferRequest():
            kind = MessageType.TRANSFER_REQUEST
            fields += [
                *_transfer(message),
                (Field.OLD_SENDER, message.old[0].packed),
                (Field.OLD_RECEIVER, message.old[1].packed),
                (Field.NEW_SENDER, message.new[0].packed),
                (Field.NEW_RECEIVER, message.new[1].packed),
            ]
        case TransferReply():
            kind = MessageType.TRANSFER_REPLY
            fields += _transfer(message)
    return _HEADER.pack(MAGIC, VERSION, kind) + b"".join(
        _FIELD.pack(field, len(value)) + value for field, value in fields
    )


def decode(datagram: bytes) -> Message:
    """The message in a datagram. Raises MessageError, and nothing else, for anything that is not one."""
    fields = _Fields(datagram)
    sequence, handover = fields.sequence(Field.SEQUENCE), fields.fixed(Field.HANDOVER, HANDOVER_SIZE)
    match fields.kind:
        case MessageType.ADDRESS_CHANGE:
            return AddressChange(
                sequence=sequence,
                handover=handover,
                nonce=fields.fixed(Field.NONCE, NONCE_SIZE),
                current=_address(fields.one(Field.CURRENT)),
                deprecated=fields.addresses(Field.DEPRECATED),
                method=fields.enumerated(Field.METHOD, Method),
                instance=fields.fixed(Field.INSTANCE, INSTANCE_SIZE),
                software=fields.text(Field.SOFTWARE, MAX_SOFTWARE) if fields.has(Field.SOFTWARE) else None,
            )
        case MessageType.ACKNOWLEDGMENT:
            return Acknowledgment(
                sequence=sequence,
                handover=handover,
                nonce=fields.fixed(Field.NONCE, NONCE_SIZE),
                verdict=fields.enumerated(Field.VERDICT, Verdict),
                challenge=fields.fixed(Field.CHALLENGE, NONCE_SIZE) if fields.has(Field.CHALLENGE) else None,
                grace_ms=fields.number(Field.GRACE, 4),
                last_sequence=fields.sequence(Field.LAST_SEQUENCE),
                reason=fields.text(Field.REASON),
                instance=fields.fixed(Field.INSTANCE, INSTANCE_SIZE),
                software=fields.text(Field.SOFTWARE, MAX_SOFTWARE) if fields.has(Field.SOFTWARE) else None,
            )
        case MessageType.PATH_RESPONSE:
            return PathResponse(sequence, handover, fields.fixed(Field.CHALLENGE, NONCE_SIZE))
        case MessageType.FILTERS_REQUEST:
            return FiltersRequest(sequence, handover, fields.enumerated(Field.STAGE, Stage))
        case MessageType.FILTERS_REPLY:
            stage = fields.enumerated(Field.STAGE, Stage)
            return FiltersReply(sequence, handover, stage, fields.text(Field.REASON))
        case MessageType.TRANSFER_REQUEST:
            old = _address(fields.one(Field.OLD_SENDER)), _address(fields.one(Field.OLD_RECEIVER))
            new = _address(fields.one(Field.NEW_SENDER)), _address(fields.one(Field.NEW_RECEIVER))
            if len({address.version for address in (*old, *new)}) > 1:
                raise MessageError(MessageProblem.BAD_VALUE, "addresses of two families")
            return TransferRequest(
                sequence=sequence,
                handover=handover,
                transfer=fields.number(Field.TRANSFER, 4),
                stage=fields.enumerated(Field.TRANSFER_STAGE, TransferStage),
                old=old,
                new=new,
                connections=_connections(fields.one(Field.CONNECTIONS)),
            )
        case MessageType.TRANSFER_REPLY:
            return TransferReply(
                sequence=sequence,
                handover=handover,
                transfer=fields.number(Field.TRANSFER, 4),
                stage=fields.enumerated(Field.TRANSFER_STAGE, TransferStage),
                connections=_connections(fields.one(Field.CONNECTIONS)),
            )


class _Fields:
    """The fields of one datagram, taken apart and checked against the limits."""

    def __init__(self, datagram: bytes) -> None:
        if len(datagram) < _HEADER.size:
            raise MessageError(MessageProblem.TOO_SHORT, f"{len(datagram)} bytes")
        if len(datagram) > MAX_DATAGRAM:
            raise MessageError(MessageProblem.TOO_LONG, f"{len(datagram)} bytes, at most {MAX_DATAGRAM} are read")
        magic, version, kind = _HEADER.unpack_from(datagram)
        if magic != MAGIC:
            raise MessageError(MessageProblem.NOT_OURS, f"starts with {magic.hex()}")
        if version != VERSION:
            raise MessageError(MessageProblem.VERSION, f"version {version}, this is version {VERSION}")
        try:
            self.kind = MessageType(kind)
        except ValueError:
            raise MessageError(MessageProblem.UNKNOWN_TYPE, f"type {kind}") from None
        self._values: dict[Field, list[bytes]] = {}
        for count, (kind_of_field, value) in enumerate(_split(datagram, _HEADER.size), start=1):
            if count > MAX_FIELDS:
                raise MessageError(MessageProblem.TOO_MANY_FIELDS, f"more than {MAX_FIELDS}")
            try:
                field = Field(kind_of_field)
            except ValueError:
                if kind_of_field & _CRITICAL:
                    raise MessageError(MessageProblem.UNKNOWN_CRITICAL, f"field {kind_of_field:#x}") from None
                continue
            self._values.setdefault(field, []).append(value)

    def has(self, field: Field) -> bool:
        return field in self._values

    def one(self, field: Field) -> bytes:
        values = self._values.get(field)
        if values is None:
            raise MessageError(MessageProblem.MISSING, field.name)
        if len(values) > 1:
            raise MessageError(MessageProblem.DUPLICATE, field.name)
        return values[0]

    def fixed(self, field: Field, size: int) -> bytes:
        value = self.one(field)
        if len(value) != size:
            raise MessageError(MessageProblem.BAD_VALUE, f"{field.name} has {len(value)} bytes, not {size}")
        return value

    def number(self, field: Field, size: int) -> int:
        return int.from_bytes(self.fixed(field, size), "big")

    def sequence(self, field: Field) -> int:
        number = self.number(field, 8)
        if number > MAX_SEQUENCE:
            raise MessageError(MessageProblem.BAD_VALUE, f"{field.name} {number}")
        return number

    def enumerated(self, field: Field, kind: type[_E]) -> _E:
        number = self.number(field, 1)
        try:
            return kind(number)
        except ValueError:
            raise MessageError(MessageProblem.BAD_VALUE, f"{field.name} {number}") from None

    def text(self, field: Field, most: int = MAX_REASON) -> str:
        value = self.one(field)
        if len(value) > most:
            raise MessageError(MessageProblem.BAD_VALUE, f"{field.name} has {len(value)} bytes")
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise MessageError(MessageProblem.BAD_VALUE, f"{field.name} is not UTF-8") from None
        if not all(character.isprintable() for character in text):
            raise MessageError(MessageProblem.BAD_VALUE, f"{field.name} has control characters")
        return text

    def addresses(self, field: Field) -> tuple[IPAddress, ...]:
        values = self._values.get(field, [])
        if len(values) > MAX_DEPRECATED:
            raise MessageError(MessageProblem.BAD_VALUE, f"{len(values)} addresses, at most {MAX_DEPRECATED}")
        addresses = tuple(_address(value) for value in values)
        if len(set(addresses)) != len(addresses):
            raise MessageError(MessageProblem.DUPLICATE, f"{field.name} names an address twice")
        return addresses


def _split(datagram: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset < len(datagram):
        if offset + _FIELD.size > len(datagram):
            raise MessageError(MessageProblem.TRUNCATED, f"field header at byte {offset}")
        kind, length = _FIELD.unpack_from(datagram, offset)
        offset += _FIELD.size
        if offset + length > len(datagram):
            raise MessageError(MessageProblem.TRUNCATED, f"field {kind:#x} at byte {offset}")
        yield kind, datagram[offset : offset + length]
        offset += length


def _address(value: bytes) -> IPAddress:
    if len(value) not in (4, 16):
        raise MessageError(MessageProblem.BAD_VALUE, f"an address of {len(value)} bytes")
    return ip_address(value)


def _sized(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise ValueError(f"{len(value)} bytes where the message has {size}")
    return value


def _number(value: int, size: int, most: int) -> bytes:
    if not 0 <= value <= most:
        raise ValueError(f"{value} is not between 0 and {most}")
    return value.to_bytes(size, "big")


def _text(text: str, most: int = MAX_REASON) -> bytes:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable.encode("utf-8")[:most].decode("utf-8", "ignore").encode("utf-8")


def _software(text: str | None) -> list[tuple[Field, bytes]]:
    return [] if text is None else [(Field.SOFTWARE, _text(text, MAX_SOFTWARE))]


def _transfer(message: TransferRequest | TransferReply) -> list[tuple[Field, bytes]]:
    if len(message.connections) > MAX_CONNECTIONS:
        raise ValueError(f"{len(message.connections)} connections, at most {MAX_CONNECTIONS} fit")
    packed = (
        _CONNECTION.pack(entry.transport, entry.port, entry.remote_port, entry.obstacle, entry.number)
        for entry in message.connections
    )
    return [
        (Field.TRANSFER, _number(message.transfer, 4, 2**32 - 1)),
        (Field.TRANSFER_STAGE, bytes([message.stage])),
        (Field.CONNECTIONS, b"".join(packed)),
    ]


def _connections(value: bytes) -> tuple[Connection, ...]:
    count, rest = divmod(len(value), _CONNECTION.size)
    if rest or count > MAX_CONNECTIONS:
        raise MessageError(MessageProblem.BAD_VALUE, f"CONNECTIONS has {len(value)} bytes")
    found = []
    for transport, port, remote_port, obstacle, number in _CONNECTION.iter_unpack(value):
        if transport not in (Transport.TCP, Transport.UDP) or not port or not remote_port:
            raise MessageError(MessageProblem.BAD_VALUE, f"a connection of protocol {transport}, {port}-{remote_port}")
        found.append(Connection(Transport(transport), port, remote_port, Obstacle(obstacle), number))
    if len({(entry.transport, entry.port, entry.remote_port) for entry in found}) != len(found):
        raise MessageError(MessageProblem.DUPLICATE, "CONNECTIONS names one twice")
    return tuple(found)
