"""VICI messages as typed data, and the errors of everything that speaks VICI.

The wire format of packets and messages is `vici.protocol`'s. Added here: types, text values, the limits that charon
enforces silently, and refusal of messages that end too early.

Source: strongSwan src/libcharon/plugins/vici/README.md and vici_socket.h.
"""

import struct
from collections.abc import Mapping
from typing import TypeAlias

from vici.exception import DeserializationException
from vici.protocol import FiniteStream, Message

MAX_PACKET = 512 * 1024
"""Bytes of the longest packet, its length field not counted. charon drops longer answers, and whoever sends one."""
MAX_NAME = 255
MAX_VALUE = 0xFFFF

ViciValue: TypeAlias = "str | list[str] | dict[str, ViciValue]"
ViciMessage: TypeAlias = dict[str, ViciValue]
"""A message received: values are text, bytes that are not UTF-8 appear as `\\xNN`."""
ViciInput: TypeAlias = "str | bytes | int | list[str] | list[bytes] | Mapping[str, ViciInput]"
"""A value to send. Booleans become `yes` and `no`."""
RawValue: TypeAlias = "bytes | list[bytes] | dict[str, RawValue]"
RawMessage: TypeAlias = dict[str, RawValue]
"""A message as it is on the wire, values undecoded."""


class IkeError(Exception):
    """Base of what anything in this package raises; the message says what happened, to what, and what to do."""


class ViciError(IkeError):
    """Base of everything that can go wrong between charon and us."""


class ViciUnavailableError(ViciError):
    """charon cannot be reached, or went away while it was asked."""


class ViciTimeoutError(ViciError):
    """charon did not answer in time; whether it carried the command out is unknown."""


class ViciProtocolError(ViciError):
    """What came, or what should be sent, is not valid VICI."""


class ViciUnsupportedError(ViciError):
    """This charon does not know the command or event."""


class ViciCommandFailedError(ViciError):
    """charon carried out a command and reports failure.

    `events` are what a streamed command had reported until then, e.g. the log of a failed `initiate`.
    """

    def __init__(self, command: str, errmsg: str, events: tuple[ViciMessage, ...] = ()) -> None:
        super().__init__(f"charon refused {command}: {errmsg}")
        self.command = command
        self.errmsg = errmsg
        self.events = events


class _StrictStream(FiniteStream):  # type: ignore[misc]  # vici has no type information
    """A message's bytes; a value shorter than announced is an error, not a shorter value."""

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(size)
        if size is not None and len(data) < size:
            raise DeserializationException(f"it ends {size - len(data)} bytes too early")
        return data


def decode_raw(payload: bytes) -> RawMessage:
    """Message with undecoded values. Raises ViciProtocolError."""
    try:
        message: RawMessage = Message.deserialize(_StrictStream(payload))
    except (DeserializationException, UnicodeDecodeError, struct.error) as error:
        raise ViciProtocolError(f"malformed VICI message: {error}") from error
    return message


def decode(payload: bytes) -> ViciMessage:
    """Message with text values. Raises ViciProtocolError."""
    return as_text(decode_raw(payload))


def as_text(message: RawMessage) -> ViciMessage:
    """The same message with text values."""

    def text(value: bytes) -> str:
        return value.decode("utf-8", "backslashreplace")

    def convert(value: RawValue) -> ViciValue:
        if isinstance(value, bytes):
            return text(value)
        if isinstance(value, list):
            return [text(item) for item in value]
        return as_text(value)

    return {key: convert(value) for key, value in message.items()}


def encode(message: Mapping[str, ViciInput]) -> bytes:
    """Message for the wire. Raises ViciProtocolError for a name or value longer than VICI's length fields allow."""

    def element(value: str | bytes | int, key: str) -> bytes:
        if isinstance(value, bool):
            value = "yes" if value else "no"
        data = value if isinstance(value, bytes) else str(value).encode()
        if len(data) > MAX_VALUE:
            raise ViciProtocolError(f"VICI value of {key!r} has {len(data)} bytes, the limit is {MAX_VALUE}")
        return data

    def section(values: Mapping[str, ViciInput]) -> dict[str, object]:
        converted: dict[str, object] = {}
        for key, value in values.items():
            if len(key.encode()) > MAX_NAME:
                raise ViciProtocolError(f"VICI name {key[:40]!r}... is longer than {MAX_NAME} bytes")
            if isinstance(value, Mapping):
                converted[key] = section(value)
            elif isinstance(value, list):
                converted[key] = [element(item, key) for item in value]
            else:
                converted[key] = element(value, key)
        return converted

    serialized: bytes = Message.serialize(section(message))
    return serialized
