"""The wire: structures of linux/xfrm.h as tables of fields, netlink attributes and netlink messages.

A `Layout` is one C structure, its fields in order with their types and its padding written out, so that it reads like
the header. Values of other modules' dataclasses are put in and taken out by name. Whatever the octets are, decoding
ends in a value or in `XfrmDecodeError`.
Source: include/uapi/linux/xfrm.h, include/uapi/linux/netlink.h, lib/nlattr.c.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final

from swanroam.kernel.xfrm.constants import NLA_TYPE_MASK, AttributeType, Family
from swanroam.kernel.xfrm.errors import XfrmDecodeError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

ADDRESS: Final = "16s"
"""xfrm_address_t: four or sixteen octets in network order, the rest zero."""


class Layout:
    """One fixed-size structure: `Layout("xfrm_mark", v="I", m="I")`.

    A type is a format of `struct` for one item in host order ("B", "H", "I", "Q", "i", "16s"), the same after ">" in
    network order, "3x" for padding (under any unused name), or another Layout, which is carried as its octets.
    """

    def __init__(self, name: str, **fields: str | Layout) -> None:
        self.name: Final = name
        names: list[str] = []
        swapped: list[tuple[int, Callable[[int], int]]] = []
        packed = "="
        for field, kind in fields.items():
            if isinstance(kind, Layout):
                packed += f"{kind.size}s"
            elif kind.endswith("x"):
                packed += kind
                continue
            elif kind.startswith(">"):
                swapped.append((len(names), {">H": socket.ntohs, ">I": socket.ntohl}[kind]))
                packed += kind[1]
            else:
                packed += kind
            names.append(field)
        self._names: Final = tuple(names)
        self._swapped: Final = tuple(swapped)
        self._struct: Final = struct.Struct(packed)
        self._empty: Final = dict(zip(names, self._struct.unpack(bytes(self._struct.size)), strict=True))
        self.size: Final[int] = self._struct.size

    def pack(self, **values: int | bytes) -> bytes:
        """The octets of the structure; fields that are not given are zero.

        Raises ValueError for a value that does not fit its field, TypeError for a name that is not one.
        """
        unknown = values.keys() - self._empty.keys()
        if unknown:
            raise TypeError(f"{self.name} has no field {', '.join(sorted(unknown))}")
        items: list[Any] = [values.get(name, empty) for name, empty in self._empty.items()]
        try:
            for index, swap in self._swapped:
                items[index] = swap(items[index])
            return self._struct.pack(*items)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"{self.name}: a value does not fit: {error}") from None

    def unpack(self, data: bytes, offset: int = 0) -> dict[str, Any]:
        """Field values by name (int or bytes, as the table says); octets after the structure are left alone."""
        if len(data) - offset < self.size:
            raise XfrmDecodeError(self.name, f"{len(data) - offset} octets where {self.size} are needed")
        items = list(self._struct.unpack_from(data, offset))
        for index, swap in self._swapped:
            items[index] = swap(items[index])
        return dict(zip(self._names, items, strict=True))

    def exactly(self, data: bytes) -> dict[str, Any]:
        """As `unpack`, for an attribute that holds this structure and nothing else."""
        if len(data) != self.size:
            raise XfrmDecodeError(self.name, f"{len(data)} octets where {self.size} are needed")
        return self.unpack(data)


# ---- addresses


def family_of(address: IPAddress) -> Family:
    return Family.INET if address.version == 4 else Family.INET6


def encode_address(address: IPAddress) -> bytes:
    """xfrm_address_t."""
    return address.packed.ljust(16, b"\0")


@lru_cache(maxsize=4096)
def decode_address(octets: bytes, family: int) -> IPAddress:
    """An address of `family`; of AF_UNSPEC all sixteen octets are kept, as an IPv6 address."""
    if family == Family.INET:
        return IPv4Address(octets[:4])
    return IPv6Address(octets)


def decode_family(structure: str, value: int) -> Family:
    try:
        return Family(value)
    except ValueError:
        raise XfrmDecodeError(structure, f"address family {value}") from None


# ---- attributes

_NLATTR: Final = struct.Struct("=HH")


@dataclass(frozen=True, slots=True, repr=False)
class Attribute:
    """A netlink attribute as it came. Its printed form has no contents, because they can be keys."""

    kind: int
    payload: bytes

    def __repr__(self) -> str:
        return f"<XFRMA_{AttributeType(self.kind).name}, {len(self.payload)} octets>"

    def encode(self) -> bytes:
        length = _NLATTR.size + len(self.payload)
        return _NLATTR.pack(length, self.kind) + self.payload + bytes(-length % 4)


def encode_attributes(attributes: Iterable[Attribute]) -> bytes:
    return b"".join(attribute.encode() for attribute in attributes)


def decode_attributes(data: bytes, offset: int = 0) -> Iterator[Attribute]:
    """The attributes that fill `data` from `offset` to its end. Raises XfrmDecodeError when they do not fit it."""
    offset += -offset % 4
    while offset < len(data):
        if len(data) - offset < _NLATTR.size:
            raise XfrmDecodeError("nlattr", f"{len(data) - offset} octets left over")
        length, kind = _NLATTR.unpack_from(data, offset)
        if length < _NLATTR.size or length > len(data) - offset:
            raise XfrmDecodeError("nlattr", f"length {length} with {len(data) - offset} octets left")
        yield Attribute(kind & NLA_TYPE_MASK, data[offset + _NLATTR.size : offset + length])
        offset += (length + 3) & ~3


_U32: Final = struct.Struct("=I")


def u32(value: int) -> bytes:
    return _U32.pack(value)


def decode_u32(attribute: Attribute) -> int:
    if len(attribute.payload) != 4:
        raise XfrmDecodeError(f"XFRMA_{AttributeType(attribute.kind).name}", f"{len(attribute.payload)} octets")
    value: int = _U32.unpack(attribute.payload)[0]
    return value


# ---- messages

_NLMSGHDR: Final = struct.Struct("=IHHII")


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """A netlink message without its length. `flags` are NLM_F_*; printed without its payload.

    `portid` in a message from the kernel names the socket whose request it belongs to, 0 for nobody's. In a request
    it is what the kernel will put into the notices that the request causes.
    """

    type: int
    flags: int
    sequence: int
    payload: bytes
    portid: int = 0

    def __repr__(self) -> str:
        return f"<netlink message {self.type:#x} seq {self.sequence}, {len(self.payload)} octets>"

    def encode(self) -> bytes:
        length = _NLMSGHDR.size + len(self.payload)
        header = _NLMSGHDR.pack(length, self.type, self.flags, self.sequence, self.portid)
        return header + self.payload + bytes(-length % 4)


def decode_messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one received datagram. Raises XfrmDecodeError on a length that does not fit."""
    offset = 0
    while offset < len(datagram):
        left = len(datagram) - offset
        if left < _NLMSGHDR.size:
            raise XfrmDecodeError("nlmsghdr", f"{left} octets left over")
        length, kind, flags, sequence, portid = _NLMSGHDR.unpack_from(datagram, offset)
        if length < _NLMSGHDR.size or length > left:
            raise XfrmDecodeError("nlmsghdr", f"length {length} with {left} octets left")
        yield Message(kind, flags, sequence, datagram[offset + _NLMSGHDR.size : offset + length], portid)
        offset += (length + 3) & ~3
