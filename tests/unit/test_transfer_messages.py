"""Transfer messages on the wire: which sockets are to move, and what came of it. All others are in test_messages."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.protocol.codec import Field, MessageError, MessageProblem, decode, encode
from swanroam.protocol.messages import (
    MAX_CONNECTIONS,
    Connection,
    Obstacle,
    TransferReply,
    TransferRequest,
    TransferStage,
    Transport,
)

REQUEST = TransferRequest(
    sequence=7,
    handover=bytes.fromhex("a0a1a2a3a4a5a6a7"),
    transfer=0x01020304,
    stage=TransferStage.MOVE,
    old=(ip_address("192.0.2.1"), ip_address("198.51.100.1")),
    new=(ip_address("192.0.2.2"), ip_address("198.51.100.1")),
    connections=(
        Connection(Transport.TCP, 40000, 80, Obstacle.NONE, 0xFFFFFFFF),
        Connection(Transport.UDP, 40000, 80, Obstacle.BOUND),
    ),
)
REPLY = TransferReply(REQUEST.sequence, REQUEST.handover, REQUEST.transfer, REQUEST.stage, REQUEST.connections)
WIRE = bytes.fromhex(
    "5352 01 06 81 0008 0000000000000007 82 0008 a0a1a2a3a4a5a6a7 8b 0004 01020304 8c 0001 02"
    "91 0014 06 9c40 0050 00 ffffffff 11 9c40 0050 06 00000000"
    "8d 0004 c0000201 8e 0004 c6336401 8f 0004 c0000202 90 0004 c6336401"
)


def connections(*entries: tuple[int, int, int, int, int]) -> bytes:
    return b"".join(struct.pack("!BHHBI", *entry) for entry in entries)


def with_field(kind: Field, value: bytes | None) -> bytes:
    """The request with another value of a field; None: without it."""
    kept, offset = WIRE[:4], 4
    while offset < len(WIRE):
        found, length = struct.unpack_from("!BH", WIRE, offset)
        if found != kind:
            kept += WIRE[offset : offset + 3 + length]
        offset += 3 + length
    return kept if value is None else kept + struct.pack("!BH", kind, len(value)) + value


def test_bytes_on_the_wire_never_change() -> None:
    assert encode(REQUEST) == WIRE
    assert decode(WIRE) == REQUEST
    assert decode(encode(REPLY)) == REPLY


def test_the_most_connections_fit_and_one_more_does_not() -> None:
    many = tuple(Connection(Transport.TCP, port, 80) for port in range(1, MAX_CONNECTIONS + 1))
    assert decode(encode(replace(REQUEST, connections=many))) == replace(REQUEST, connections=many)
    with pytest.raises(ValueError, match="at most"):
        encode(replace(REQUEST, connections=(*many, Connection(Transport.UDP, 1, 80))))


def test_an_obstacle_of_a_later_version_is_a_failure() -> None:
    message = decode(with_field(Field.CONNECTIONS, connections((6, 1, 2, 200, 0))))
    assert isinstance(message, TransferRequest)
    assert message.connections[0].obstacle is Obstacle.FAILED


@pytest.mark.parametrize(
    ("datagram", "problem"),
    [
        (with_field(Field.OLD_SENDER, bytes(16)), MessageProblem.BAD_VALUE),
        (with_field(Field.NEW_RECEIVER, bytes(16)), MessageProblem.BAD_VALUE),
        (with_field(Field.NEW_SENDER, None), MessageProblem.MISSING),
        (with_field(Field.TRANSFER, bytes(5)), MessageProblem.BAD_VALUE),
        (with_field(Field.TRANSFER_STAGE, b"\x05"), MessageProblem.BAD_VALUE),
        (with_field(Field.CONNECTIONS, None), MessageProblem.MISSING),
        (with_field(Field.CONNECTIONS, bytes(9)), MessageProblem.BAD_VALUE),
        (with_field(Field.CONNECTIONS, connections((1, 1, 2, 0, 0))), MessageProblem.BAD_VALUE),
        (with_field(Field.CONNECTIONS, connections((6, 0, 2, 0, 0))), MessageProblem.BAD_VALUE),
        (with_field(Field.CONNECTIONS, connections((6, 1, 0, 0, 0))), MessageProblem.BAD_VALUE),
        (with_field(Field.CONNECTIONS, connections((6, 1, 2, 0, 0), (6, 1, 2, 3, 4))), MessageProblem.DUPLICATE),
        (
            with_field(Field.CONNECTIONS, connections(*((6, port, 2, 0, 0) for port in range(1, MAX_CONNECTIONS + 2)))),
            MessageProblem.BAD_VALUE,
        ),
    ],
    ids=[
        *("families of the old pair", "families of the new pair", "no new sender", "long transfer", "stage 5"),
        *("no connections", "half a connection", "ICMP", "port 0", "remote port 0", "twice", "too many"),
    ],
)
def test_malformed_transfers_are_named_and_dropped(datagram: bytes, problem: MessageProblem) -> None:
    with pytest.raises(MessageError) as raised:
        decode(datagram)
    assert raised.value.problem is problem


@given(st.integers(0, len(WIRE) - 1), st.binary(max_size=12), st.integers(0, 12))
def test_no_damage_raises_anything_but_a_message_error(offset: int, inserted: bytes, removed: int) -> None:
    try:
        message = decode(WIRE[:offset] + inserted + WIRE[offset + removed :])
    except MessageError:
        return
    assert decode(encode(message)) == message
