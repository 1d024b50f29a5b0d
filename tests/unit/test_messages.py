"""The codec: bytes that must never change, limits, and whatever else a datagram may hold."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swanroam.protocol.codec import (
    MAX_DATAGRAM,
    MAX_FIELDS,
    MAX_REASON,
    MAX_SOFTWARE,
    MessageError,
    MessageProblem,
    decode,
    encode,
)
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    INSTANCE_SIZE,
    MAX_DEPRECATED,
    MAX_GRACE_MS,
    MAX_SEQUENCE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    FiltersReply,
    FiltersRequest,
    Message,
    Method,
    PathResponse,
    Stage,
    Verdict,
)

HANDOVER = bytes.fromhex("a0a1a2a3a4a5a6a7")
NONCE = bytes(range(16))
CHALLENGE = bytes(range(16, 32))
INSTANCE = bytes.fromhex("e0e1e2e3e4e5e6e7")

CHANGE = AddressChange(
    sequence=7,
    handover=HANDOVER,
    nonce=NONCE,
    current=IPv4Address("192.0.2.2"),
    deprecated=(IPv4Address("192.0.2.1"),),
    method=Method.RENEGOTIATE,
    instance=INSTANCE,
)
CHANGE_IPV6 = replace(
    CHANGE,
    current=IPv6Address("2001:db8::2"),
    deprecated=(IPv6Address("2001:db8::1"), IPv6Address("2001:db8::3")),
    method=Method.MIGRATE,
)
ACKNOWLEDGMENT = Acknowledgment(
    sequence=7,
    handover=HANDOVER,
    nonce=NONCE,
    verdict=Verdict.ACCEPTED,
    challenge=CHALLENGE,
    grace_ms=10000,
    last_sequence=7,
    reason="",
    instance=INSTANCE,
)
REFUSAL = replace(ACKNOWLEDGMENT, verdict=Verdict.NOT_ALLOWED, challenge=None, last_sequence=6, reason="nö")

# Field by field: type, length, value. A later version must still read these, and write them to peers of this version.
_SEQUENCE = "81 0008 0000000000000007"
_HANDOVER = "82 0008 a0a1a2a3a4a5a6a7"
_NONCE = "83 0010 000102030405060708090a0b0c0d0e0f"
_CHALLENGE = "87 0010 101112131415161718191a1b1c1d1e1f"
_INSTANCE = "03 0008 e0e1e2e3e4e5e6e7"
GOLDEN: list[tuple[Message, tuple[str, ...]]] = [
    (
        CHANGE,
        ("5352 01 01", _SEQUENCE, _HANDOVER, _NONCE, "84 0004 c0000202", "85 0004 c0000201", "89 0001 00", _INSTANCE),
    ),
    (
        CHANGE_IPV6,
        (
            *("5352 01 01", _SEQUENCE, _HANDOVER, _NONCE),
            "84 0010 20010db8000000000000000000000002",
            "85 0010 20010db8000000000000000000000001",
            "85 0010 20010db8000000000000000000000003",
            *("89 0001 01", _INSTANCE),
        ),
    ),
    (
        ACKNOWLEDGMENT,
        (
            *("5352 01 02", _SEQUENCE, _HANDOVER, _NONCE, "86 0001 00"),
            *("88 0008 0000000000000007", "01 0004 00002710", "02 0000", _INSTANCE, _CHALLENGE),
        ),
    ),
    (
        REFUSAL,
        (
            *("5352 01 02", _SEQUENCE, _HANDOVER, _NONCE, "86 0001 03"),
            *("88 0008 0000000000000006", "01 0004 00002710", "02 0003 6ec3b6", _INSTANCE),
        ),
    ),
    (PathResponse(7, HANDOVER, CHALLENGE), ("5352 01 03", _SEQUENCE, _HANDOVER, _CHALLENGE)),
    (FiltersRequest(7, HANDOVER, Stage.MOVE), ("5352 01 04", _SEQUENCE, _HANDOVER, "8a 0001 01")),
    (
        FiltersReply(7, HANDOVER, Stage.FINISH, "no SA"),
        ("5352 01 05", _SEQUENCE, _HANDOVER, "8a 0001 02", "02 0005 6e6f205341"),
    ),
]


@pytest.mark.parametrize(("message", "fields"), GOLDEN, ids=lambda value: getattr(type(value), "__name__", ""))
def test_bytes_on_the_wire_never_change(message: Message, fields: tuple[str, ...]):
    datagram = bytes.fromhex("".join(fields))
    assert encode(message) == datagram
    assert decode(datagram) == message


# --- round trips ------------------------------------------------------------------------------------------------------

_sequences = st.integers(0, MAX_SEQUENCE)
_handovers = st.binary(min_size=HANDOVER_SIZE, max_size=HANDOVER_SIZE)
_nonces = st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE)
_instances = st.binary(min_size=INSTANCE_SIZE, max_size=INSTANCE_SIZE)
_addresses = st.ip_addresses()
_reasons = st.text(st.characters(categories=("L", "N", "P", "S")), max_size=MAX_REASON // 4)
_software = st.text(st.characters(categories=("L", "N", "P", "S")), max_size=MAX_SOFTWARE // 4)
_messages = st.one_of(
    st.builds(
        AddressChange,
        sequence=_sequences,
        handover=_handovers,
        nonce=_nonces,
        current=_addresses,
        deprecated=st.lists(_addresses, max_size=MAX_DEPRECATED, unique=True).map(tuple),
        method=st.sampled_from(Method),
        instance=_instances,
        software=st.none() | _software,
    ),
    st.builds(
        Acknowledgment,
        sequence=_sequences,
        handover=_handovers,
        nonce=_nonces,
        verdict=st.sampled_from(Verdict),
        challenge=st.none() | _nonces,
        grace_ms=st.integers(0, MAX_GRACE_MS),
        last_sequence=_sequences,
        reason=_reasons,
        instance=_instances,
        software=st.none() | _software,
    ),
    st.builds(PathResponse, sequence=_sequences, handover=_handovers, challenge=_nonces),
    st.builds(FiltersRequest, sequence=_sequences, handover=_handovers, stage=st.sampled_from(Stage)),
    st.builds(FiltersReply, sequence=_sequences, handover=_handovers, stage=st.sampled_from(Stage), reason=_reasons),
)


@given(_messages)
def test_what_is_encoded_is_decoded_the_same(message: Message):
    datagram = encode(message)
    assert len(datagram) <= MAX_DATAGRAM
    assert decode(datagram) == message


def test_the_largest_message_fits_in_a_datagram():
    addresses = tuple(IPv6Address(0x20010DB8 << 96 | number) for number in range(MAX_DEPRECATED))
    assert len(encode(replace(CHANGE_IPV6, deprecated=addresses))) <= MAX_DATAGRAM
    assert len(encode(replace(ACKNOWLEDGMENT, reason="x" * 1000))) <= MAX_DATAGRAM


# --- what we may not say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        replace(CHANGE, sequence=-1),
        replace(CHANGE, sequence=MAX_SEQUENCE + 1),
        replace(CHANGE, handover=b"short"),
        replace(CHANGE, nonce=b"short"),
        replace(CHANGE, instance=b"short"),
        replace(CHANGE, deprecated=tuple(IPv4Address(number) for number in range(1, MAX_DEPRECATED + 2))),
        replace(CHANGE, deprecated=(IPv4Address("192.0.2.1"),) * 2),
        replace(ACKNOWLEDGMENT, challenge=b"short"),
        replace(ACKNOWLEDGMENT, grace_ms=MAX_GRACE_MS + 1),
        replace(ACKNOWLEDGMENT, grace_ms=-1),
        replace(ACKNOWLEDGMENT, last_sequence=MAX_SEQUENCE + 1),
    ],
)
def test_values_out_of_the_limits_are_not_encoded(message: Message):
    with pytest.raises(ValueError):
        encode(message)


@given(st.text())
@example("\ud800")
@example("line one\nline two\x1b[31m")
@example("€" * MAX_REASON)
def test_any_reason_can_be_given(reason: str):
    decoded = decode(encode(replace(REFUSAL, reason=reason)))
    assert isinstance(decoded, Acknowledgment)
    assert len(decoded.reason.encode()) <= MAX_REASON
    assert decoded.reason.isprintable()


@pytest.mark.parametrize("version", ["0.1.0", "", "€" * MAX_SOFTWARE, "1\n2"])
def test_any_version_can_be_told(version: str):
    decoded = decode(encode(replace(CHANGE, software=version)))
    assert isinstance(decoded, AddressChange)
    assert decoded.software is not None
    assert len(decoded.software.encode()) <= MAX_SOFTWARE
    assert decoded.software.isprintable()
    assert bool(decoded.software) == bool(version)


# --- what we may not believe ------------------------------------------------------------------------------------------


def _field(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def _without(datagram: bytes, kind: int) -> bytes:
    """The datagram less every field of a type."""
    kept, offset = datagram[:4], 4
    while offset < len(datagram):
        found, length = struct.unpack_from("!BH", datagram, offset)
        if found != kind:
            kept += datagram[offset : offset + 3 + length]
        offset += 3 + length
    return kept


def _with(datagram: bytes, kind: int, value: bytes) -> bytes:
    return _without(datagram, kind) + _field(kind, value)


_PROBES = encode(CHANGE)
_ANSWER = encode(REFUSAL)
MALFORMED = [
    ("nothing", b"", MessageProblem.TOO_SHORT),
    ("half a header", b"SR\x01", MessageProblem.TOO_SHORT),
    ("a byte too much", _PROBES + _field(0x7F, bytes(MAX_DATAGRAM - len(_PROBES) - 2)), MessageProblem.TOO_LONG),
    ("another protocol", b"XX" + _PROBES[2:], MessageProblem.NOT_OURS),
    ("version 0", _PROBES[:2] + b"\x00" + _PROBES[3:], MessageProblem.VERSION),
    ("version 2", _PROBES[:2] + b"\x02" + _PROBES[3:], MessageProblem.VERSION),
    ("type 0", _PROBES[:3] + b"\x00" + _PROBES[4:], MessageProblem.UNKNOWN_TYPE),
    ("type 8", _PROBES[:3] + b"\x08" + _PROBES[4:], MessageProblem.UNKNOWN_TYPE),
    ("half a field header", _PROBES + b"\x7f\x00", MessageProblem.TRUNCATED),
    ("a field that ends too early", _PROBES[:-1], MessageProblem.TRUNCATED),
    ("a field of 65535 bytes", _PROBES + b"\x7f\xff\xff", MessageProblem.TRUNCATED),
    ("many unknown fields", _PROBES + _field(0x7F, b"") * MAX_FIELDS, MessageProblem.TOO_MANY_FIELDS),
    ("an unknown critical field", _PROBES + _field(0xFF, b""), MessageProblem.UNKNOWN_CRITICAL),
    ("two sequences", _PROBES + _field(0x81, bytes(8)), MessageProblem.DUPLICATE),
    ("two current addresses", _PROBES + _field(0x84, bytes(4)), MessageProblem.DUPLICATE),
    ("an address deprecated twice", _PROBES + _field(0x85, bytes([192, 0, 2, 1])), MessageProblem.DUPLICATE),
    ("two reasons", _ANSWER + _field(0x02, b""), MessageProblem.DUPLICATE),
    ("a header alone", _PROBES[:4], MessageProblem.MISSING),
    *((f"no field {kind:#x}", _without(_PROBES, kind), MessageProblem.MISSING) for kind in (0x81, 0x82, 0x83, 0x84)),
    *((f"no field {kind:#x}", _without(_PROBES, kind), MessageProblem.MISSING) for kind in (0x89, 0x03)),
    *((f"no field {kind:#x}", _without(_ANSWER, kind), MessageProblem.MISSING) for kind in (0x86, 0x88, 0x01, 0x02)),
    ("a sequence of 4 bytes", _with(_PROBES, 0x81, bytes(4)), MessageProblem.BAD_VALUE),
    ("a sequence above all", _with(_PROBES, 0x81, b"\xff" * 8), MessageProblem.BAD_VALUE),
    ("a last sequence above all", _with(_ANSWER, 0x88, b"\xff" * 8), MessageProblem.BAD_VALUE),
    ("a short nonce", _with(_PROBES, 0x83, NONCE[:-1]), MessageProblem.BAD_VALUE),
    ("an empty challenge", _ANSWER + _field(0x87, b""), MessageProblem.BAD_VALUE),
    ("an address of 5 bytes", _with(_PROBES, 0x84, bytes(5)), MessageProblem.BAD_VALUE),
    ("an empty deprecated address", _PROBES + _field(0x85, b""), MessageProblem.BAD_VALUE),
    (
        "an address too many",
        _PROBES + b"".join(_field(0x85, bytes([10, 0, 0, number])) for number in range(MAX_DEPRECATED)),
        MessageProblem.BAD_VALUE,
    ),
    ("method 2", _with(_PROBES, 0x89, b"\x02"), MessageProblem.BAD_VALUE),
    ("verdict 99", _with(_ANSWER, 0x86, b"\x63"), MessageProblem.BAD_VALUE),
    ("two versions of the software", _PROBES + _field(0x04, b"1") * 2, MessageProblem.DUPLICATE),
    ("a long version", _PROBES + _field(0x04, b"1" * (MAX_SOFTWARE + 1)), MessageProblem.BAD_VALUE),
    ("a version that paints", _PROBES + _field(0x04, b"\x1b[31m"), MessageProblem.BAD_VALUE),
    ("a long reason", _with(_ANSWER, 0x02, b"x" * (MAX_REASON + 1)), MessageProblem.BAD_VALUE),
    ("a reason that is not UTF-8", _with(_ANSWER, 0x02, b"\xff"), MessageProblem.BAD_VALUE),
    ("a reason that paints the terminal", _with(_ANSWER, 0x02, b"\x1b[31m"), MessageProblem.BAD_VALUE),
    ("a short instance", _with(_PROBES, 0x03, bytes(7)), MessageProblem.BAD_VALUE),
]


@pytest.mark.parametrize(("datagram", "problem"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed_datagrams_are_named_and_dropped(datagram: bytes, problem: MessageProblem):
    with pytest.raises(MessageError) as raised:
        decode(datagram)
    assert raised.value.problem is problem


def test_every_problem_has_a_datagram_that_causes_it():
    assert {problem for _, _, problem in MALFORMED} == set(MessageProblem)


def test_a_later_version_may_add_fields_that_are_not_critical():
    assert decode(_PROBES + _field(0x7F, b"anything") + _field(0x7F, b"twice")) == CHANGE


def test_fields_may_come_in_any_order():
    assert decode(_with(_PROBES, 0x81, (7).to_bytes(8, "big"))) == CHANGE


def _decodes_or_raises(datagram: bytes) -> None:
    try:
        message = decode(datagram)
    except MessageError:
        return
    assert decode(encode(message)) == message


@given(st.binary(max_size=MAX_DATAGRAM + 16))
def test_no_bytes_raise_anything_but_a_message_error(datagram: bytes):
    _decodes_or_raises(datagram)
    _decodes_or_raises(b"SR\x01" + datagram)


@given(_messages, st.data())
def test_no_damage_to_a_message_raises_anything_but_a_message_error(message: Message, data: st.DataObject):
    datagram = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(datagram) - 1, 0)))
        match data.draw(st.sampled_from(("change", "cut", "insert", "repeat"))):
            case "change" if datagram:
                datagram[at] = data.draw(st.integers(0, 255))
            case "cut":
                del datagram[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                datagram[at:at] = data.draw(st.binary(max_size=20))
            case _:
                datagram += datagram[at : at + 40]
    _decodes_or_raises(bytes(datagram))
