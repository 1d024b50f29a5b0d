"""Datagrams against the message codec: each is a message, or raises MessageError and nothing else."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address, IPv6Address

from fuzz.mutation import INTERESTING, damaged
from swanroam.protocol.codec import Field, MessageError, MessageType, decode, encode
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


class Parser:
    """See Target."""

    name = "parser"

    def generate(self, choose: random.Random) -> bytes:
        match choose.randrange(8):
            case 0:
                return encode(message(choose))
            case 1:
                return choose.randbytes(choose.randrange(80))
            case 2:
                return b"SR\x01" + choose.randbytes(choose.randrange(80))
            case 3:
                return _fields(choose)
            case _:
                return damaged(encode(message(choose)), choose, (_fields(choose),))

    def check(self, data: bytes) -> int:
        try:
            found = decode(data)
        except MessageError:
            return 1
        again = encode(found)
        assert decode(again) == found
        assert encode(decode(again)) == again
        return 1


def _fields(choose: random.Random) -> bytes:
    """A header and fields of the right form with anything in them."""
    datagram = b"SR\x01" + bytes([choose.choice([*MessageType, 0, 255])])
    for _ in range(choose.choice((0, 1, 5, 9, 33))):
        kind = choose.choice((*Field, choose.randrange(256)))
        value = choose.randbytes(choose.choice((0, 1, 4, 8, 16, *INTERESTING)))
        datagram += struct.pack("!BH", kind, len(value)) + value
    return datagram


def _address(choose: random.Random, version: int) -> IPAddress:
    return IPv4Address(choose.randbytes(4)) if version == 4 else IPv6Address(choose.randbytes(16))


def connections(choose: random.Random) -> tuple[Connection, ...]:
    """Of a transfer."""
    ports = choose.sample(range(1, 65536), choose.choice((0, 1, 3, MAX_CONNECTIONS)))
    return tuple(
        Connection(
            choose.choice(list(Transport)),
            port,
            choose.randrange(1, 65536),
            choose.choice(list(Obstacle)),
            choose.randrange(2**32),
        )
        for port in ports
    )


def message(choose: random.Random) -> Message:
    """Any message that may be sent."""
    sequence = choose.choice((0, 1, MAX_SEQUENCE, choose.randrange(MAX_SEQUENCE)))
    handover = choose.randbytes(HANDOVER_SIZE)
    version = choose.choice((4, 6))
    reason = "".join(chr(choose.choice((0x41, 0xE9, 0x20AC, 0x1F600))) for _ in range(choose.choice((0, 5, 60))))
    transfer, stage = choose.randrange(2**32), choose.choice(list(TransferStage))
    match choose.choice(list(MessageType)):
        case MessageType.ADDRESS_CHANGE:
            deprecated = {_address(choose, version) for _ in range(choose.randrange(MAX_DEPRECATED + 1))}
            return AddressChange(
                sequence,
                handover,
                choose.randbytes(NONCE_SIZE),
                _address(choose, version),
                tuple(sorted(deprecated)),
                choose.choice(list(Method)),
                choose.randbytes(INSTANCE_SIZE),
            )
        case MessageType.ACKNOWLEDGMENT:
            return Acknowledgment(
                sequence,
                handover,
                choose.randbytes(NONCE_SIZE),
                choose.choice(list(Verdict)),
                choose.choice((None, choose.randbytes(NONCE_SIZE))),
                choose.choice((0, 10_000, MAX_GRACE_MS)),
                choose.randrange(MAX_SEQUENCE + 1),
                reason,
                choose.randbytes(INSTANCE_SIZE),
            )
        case MessageType.PATH_RESPONSE:
            return PathResponse(sequence, handover, choose.randbytes(NONCE_SIZE))
        case MessageType.FILTERS_REQUEST:
            return FiltersRequest(sequence, handover, choose.choice(list(Stage)))
        case MessageType.FILTERS_REPLY:
            return FiltersReply(sequence, handover, choose.choice(list(Stage)), reason)
        case MessageType.TRANSFER_REQUEST:
            old, new = ((_address(choose, version), _address(choose, version)) for _ in range(2))
            return TransferRequest(sequence, handover, transfer, stage, old, new, connections(choose))
        case MessageType.TRANSFER_REPLY:
            return TransferReply(sequence, handover, transfer, stage, connections(choose))
