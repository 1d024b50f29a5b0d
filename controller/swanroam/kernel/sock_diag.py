"""NETLINK_SOCK_DIAG: the sockets of the calling thread's network namespace, and the end of one.

The wire only; the questions that swanroam asks are in `swanroam.kernel.sockets`.
Source: sock_diag(7); include/uapi/linux/{netlink,sock_diag,inet_diag}.h; net/ipv4/inet_diag.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from swanroam.kernel.descriptors import MORE_FILES, lacks_descriptors

IPAddress = IPv4Address | IPv6Address

ANSWER_TIMEOUT = 10.0
"""Seconds for each part of the kernel's answer."""
STAND_IN_MARK = 0x73777369
"""SO_MARK of sockets of the mover's that stand in for programs' for a while; they are never listed."""


class SocketDiagError(Exception):
    """The kernel's sockets could not be read."""


class CannotDestroy(SocketDiagError):  # noqa: N818 - said of the kernel
    """The kernel does not end sockets of others: it was built without CONFIG_INET_DIAG_DESTROY."""


class SocketGone(SocketDiagError):  # noqa: N818 - that it is gone is what is wrong
    """The socket is not there any more."""


class SocketProtocol(Enum):
    TCP = socket.IPPROTO_TCP
    UDP = socket.IPPROTO_UDP


class SocketState(IntEnum):
    """Source: include/net/tcp_states.h. UDP sockets are ESTABLISHED when connected, else CLOSE."""

    UNKNOWN = 0
    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12
    BOUND_INACTIVE = 13
    """Bound, neither connected nor listening. Reported from Linux 6.8."""

    @classmethod
    def _missing_(cls, value: object) -> SocketState:
        return cls.UNKNOWN


class SocketEnds(IntFlag):
    """Which directions are at their end. Source: RCV_SHUTDOWN, SEND_SHUTDOWN (include/net/sock.h)."""

    RECEIVED = 1
    SENT = 2


@dataclass(frozen=True, slots=True)
class SocketInUse:
    """A socket that is bound or connected."""

    protocol: SocketProtocol
    state: SocketState
    family: int
    """AF_INET or AF_INET6, of the socket. One of AF_INET6 may well have IPv4 addresses (RFC 4291 §2.5.5.2)."""
    local: IPAddress
    """v4-mapped addresses appear as the IPv4 address that is on the wire."""
    local_port: int
    remote: IPAddress
    """The unspecified address when the socket is not connected."""
    remote_port: int
    interface: int
    """Index of the interface that the socket is bound to; 0 for none."""
    inode: int
    """By which its processes are found; 0 when no process has it any more."""
    uid: int
    cookie: bytes = field(default=b"\xff" * 8, compare=False)
    """The kernel's own name of the socket, never given to another one until the host restarts (sock_gen_cookie)."""
    receive_queue: int = field(default=0, compare=False)
    """Octets that the program has not read yet. For a listener: connections that wait."""
    send_queue: int = field(default=0, compare=False)
    """Octets that the peer has not acknowledged. For a listener: how many may wait."""
    ends: SocketEnds = field(default=SocketEnds(0), compare=False)
    upper_protocol: str = field(default="", compare=False)
    """What works between the program and TCP ("tls", "mptcp"); only told to those with CAP_NET_ADMIN."""
    signature_keys: bytes = field(default=b"", compare=False, repr=False)
    """TCP-MD5 keys: an array of struct tcp_diag_md5sig; only told to those with CAP_NET_ADMIN."""

    @property
    def listening(self) -> bool:
        """Whether it waits for connections rather than being one."""
        return self.state is SocketState.LISTEN

    @property
    def connected(self) -> bool:
        return not self.remote.is_unspecified

    @property
    def lingering(self) -> bool:
        """Whether only the kernel still keeps it: the connection is over (TIME_WAIT, and FIN_WAIT2 once orphaned)."""
        return self.state is SocketState.TIME_WAIT or (self.state is SocketState.FIN_WAIT2 and self.inode == 0)


@dataclass(frozen=True, slots=True)
class Condition:
    """Which sockets the kernel lists; None stands for any. An IPv4 address matches v4-mapped ones as well."""

    local: IPAddress | None = None
    remote: IPAddress | None = None
    automatic_port: bool = False
    """Only sockets whose port was not asked for with bind(2): those without SOCK_BINDPORT_LOCK."""

    @property
    def families(self) -> tuple[int, ...]:
        """Those that can have a match. IPv6 sockets always can: v4-mapped."""
        if all(address is None or address.version == 4 for address in (self.local, self.remote)):
            return socket.AF_INET, socket.AF_INET6
        return (socket.AF_INET6,)

    def accepts(self, entry: SocketInUse) -> bool:
        """The addresses again: kernels leave the filter out for some kinds of entries."""
        return self.local in (None, entry.local) and self.remote in (None, entry.remote)

    def bytecode(self) -> bytes:
        """Program for the kernel's filter; empty for no filter. Source: inet_diag_bc_run()."""
        program = b""
        if self.automatic_port:
            program = _operation(_INET_DIAG_BC_AUTO, b"", program)
        for code, address in ((_INET_DIAG_BC_D_COND, self.remote), (_INET_DIAG_BC_S_COND, self.local)):
            if address is not None:
                family = socket.AF_INET if address.version == 4 else socket.AF_INET6
                operand = _CONDITION.pack(family, address.max_prefixlen, -1) + address.packed
                program = _operation(code, operand, program)
        return program


class SocketDiag:
    """Client of NETLINK_SOCK_DIAG, used as `with SocketDiag() as diag:`. One question at a time."""

    def __init__(self) -> None:
        """Raises SocketDiagError."""
        try:
            self._netlink = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
            )
        except OSError as error:
            remedy = MORE_FILES if lacks_descriptors(error) else "it needs CONFIG_INET_DIAG (modprobe inet_diag)"
            raise SocketDiagError(f"the kernel does not let its sockets be read: {error}; {remedy}") from error
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    async def list(self, family: int, protocol: SocketProtocol, condition: Condition) -> list[SocketInUse]:
        """The sockets of a family that meet the condition. Raises SocketDiagError."""
        request = list_request(family, protocol, condition)
        try:
            answers = [payload async for payload in self._ask(_SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, request)]
        except _Refusal as refusal:
            remedy = (
                "; load them with 'modprobe -a inet_diag tcp_diag udp_diag'" if refusal.number == errno.ENOENT else ""
            )
            raise SocketDiagError(f"the kernel refuses to list its sockets: {refusal}{remedy}") from refusal
        whole = [payload for payload in answers if len(payload) >= _MESSAGE.size]
        found = [_decode(payload, protocol) for payload in whole if not _stands_in(payload)]
        return [entry for entry in found if condition.accepts(entry)]

    async def get_tcp(
        self, local: IPAddress, local_port: int, remote: IPAddress, remote_port: int
    ) -> SocketInUse | None:
        """The TCP connection with these ends, found by its hash: for a few, cheaper than `list`.

        None when there is none, even if a listener would get its packets. Raises SocketDiagError.
        """
        family = socket.AF_INET if local.version == 4 else socket.AF_INET6
        sockid = _SOCKID.pack(
            local_port.to_bytes(2, "big"), remote_port.to_bytes(2, "big"), local.packed, remote.packed, 0, b"\xff" * 8
        )
        request = _REQUEST.pack(family, SocketProtocol.TCP.value, _EXTENSIONS, _ALL_STATES) + sockid
        try:
            answers = [payload async for payload in self._ask(_SOCK_DIAG_BY_FAMILY, _NLM_F_ACK, request)]
        except _Refusal as refusal:
            if refusal.number in (errno.ENOENT, errno.ESTALE):
                return None
            raise SocketDiagError(f"the kernel refuses to look a socket up: {refusal}") from refusal
        for entry in (_decode(payload, SocketProtocol.TCP) for payload in answers if len(payload) >= _MESSAGE.size):
            ends = (entry.local, entry.local_port, entry.remote, entry.remote_port)
            if ends == (local, local_port, remote, remote_port):
                return entry
        return None

    async def destroy(self, entry: SocketInUse) -> None:
        """End a socket as `ss --kill` does: its program reads ECONNABORTED, a TCP peer gets a reset (tcp_abort).

        Raises SocketGone when there is no such socket any more, SocketDiagError.
        """
        sockid = _SOCKID.pack(
            entry.local_port.to_bytes(2, "big"),
            entry.remote_port.to_bytes(2, "big"),
            _packed(entry.family, entry.local),
            _packed(entry.family, entry.remote),
            entry.interface,
            entry.cookie,
        )
        request = _REQUEST.pack(entry.family, entry.protocol.value, 0, _ALL_STATES) + sockid
        what = f"{entry.protocol.name} {entry.local}:{entry.local_port} - {entry.remote}:{entry.remote_port}"
        try:
            async for _ in self._ask(_SOCK_DESTROY, _NLM_F_ACK, request):
                pass
        except _Refusal as refusal:
            if refusal.number in (errno.ENOENT, errno.ESTALE):
                raise SocketGone(f"there is no socket {what} any more") from refusal
            if refusal.number == errno.EOPNOTSUPP:
                raise CannotDestroy(
                    f"the kernel does not end the socket {what}: {refusal}; it needs CONFIG_INET_DIAG_DESTROY=y"
                ) from refusal
            remedy = "; run with CAP_NET_ADMIN" if refusal.number == errno.EPERM else ""
            raise SocketDiagError(f"the kernel does not end the socket {what}: {refusal}{remedy}") from refusal

    async def _ask(self, kind: int, flags: int, request: bytes) -> AsyncIterator[bytes]:
        """Send one request and give the payload of each answer. Raises _Refusal, SocketDiagError."""
        loop = asyncio.get_running_loop()
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(request), kind, _NLM_F_REQUEST | flags, self._sequence, 0)
        try:
            await loop.sock_sendall(self._netlink, header + request)
            while True:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    datagram = await loop.sock_recv(self._netlink, _RECEIVE_SIZE)
                for answer, payload in self._messages(datagram):
                    if answer in (_NLMSG_DONE, _NLMSG_ERROR):
                        _raise_for(payload)
                        return
                    if answer == _SOCK_DIAG_BY_FAMILY:
                        yield payload
                # What is there already is received without suspending; thousands of sockets must not stop the loop.
                await asyncio.sleep(0)
        except TimeoutError as error:
            raise SocketDiagError(
                f"the kernel has not said within {ANSWER_TIMEOUT:g} s which sockets it has"
            ) from error
        except OSError as error:
            raise SocketDiagError(f"the kernel's sockets could not be read: {error}") from error

    def _messages(self, datagram: bytes) -> Iterator[tuple[int, bytes]]:
        """Kind and payload of the messages that answer the last request."""
        offset = 0
        while offset + _HEADER.size <= len(datagram):
            length, kind, _flags, number, _port = _HEADER.unpack_from(datagram, offset)
            if length < _HEADER.size or offset + length > len(datagram):
                raise SocketDiagError("the kernel's answer about its sockets is cut off; please report this")
            if number == self._sequence:
                yield kind, datagram[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def list_request(family: int, protocol: SocketProtocol, condition: Condition) -> bytes:
    """struct inet_diag_req_v2, which asks for the ends too, and the filter."""
    # The unspecified socket id; the cookie of all ones is INET_DIAG_NOCOOKIE.
    sockid = _SOCKID.pack(b"", b"", b"", b"", 0, b"\xff" * 8)
    request = _REQUEST.pack(family, protocol.value, _EXTENSIONS, _ALL_STATES) + sockid
    if program := condition.bytecode():
        request += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(program), _INET_DIAG_REQ_BYTECODE) + program
    return request


_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP = 0x300
_NLA_TYPE_MASK = 0x3FFF
_INET_DIAG_REQ_BYTECODE = 1
_INET_DIAG_BC_S_COND = 7
_INET_DIAG_BC_D_COND = 8
_INET_DIAG_BC_AUTO = 6
_INET_DIAG_INFO = 2
_INET_DIAG_SHUTDOWN = 8
_INET_DIAG_MARK = 15
_INET_DIAG_MD5SIG = 18
_INET_DIAG_ULP_INFO = 19
_INET_ULP_INFO_NAME = 1
_ALL_STATES = 0xFFFFFFFF
_EXTENSIONS = 1 << (_INET_DIAG_SHUTDOWN - 1) | 1 << (_INET_DIAG_INFO - 1)
"""What is asked for beside the addresses. Keys and upper protocol come only with INFO (inet_sk_diag_fill())."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, followed by a struct inet_diag_sockid
_SOCKID = struct.Struct("=2s2s16s16sI8s")  # ports and addresses in network order, interface, cookie
_MESSAGE = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg: ..., expires, rqueue, wqueue, uid, inode
_CONDITION = struct.Struct("=BBxxi")  # struct inet_diag_hostcond, followed by the address
_OPERATION = struct.Struct("=BBH")  # struct inet_diag_bc_op: code, jump if true, jump if false
_ATTRIBUTE = struct.Struct("=HH")

_RECEIVE_SIZE = 1 << 16


class _Refusal(Exception):  # noqa: N818 - never leaves this module
    """The kernel answered with an error number."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(os.strerror(number))


def _raise_for(payload: bytes) -> None:
    """Raise for the error number that an error message, and the end of a dump, begin with."""
    (code,) = struct.unpack_from("=i", payload) if len(payload) >= 4 else (0,)
    if code:
        raise _Refusal(-code)


def _operation(code: int, operand: bytes, program: bytes) -> bytes:
    """The operation in front of the program. A jump past the end by 4 is "does not match"; to the end, "matches"."""
    length = _OPERATION.size + len(operand)
    return _OPERATION.pack(code, length, length + len(program) + 4) + operand + program


def _decode(payload: bytes, protocol: SocketProtocol) -> SocketInUse:
    family, state, _timer, _retrans, sockid, _expires, received, sent, uid, inode = _MESSAGE.unpack_from(payload)
    local_port, remote_port, local, remote, interface, cookie = _SOCKID.unpack(sockid)
    attributes = dict(_attributes(payload[_MESSAGE.size :]))
    name = dict(_attributes(attributes.get(_INET_DIAG_ULP_INFO, b""))).get(_INET_ULP_INFO_NAME, b"")
    return SocketInUse(
        protocol=protocol,
        state=SocketState(state),
        family=family,
        local=_address(family, local),
        local_port=int.from_bytes(local_port, "big"),
        remote=_address(family, remote),
        remote_port=int.from_bytes(remote_port, "big"),
        interface=interface,
        inode=inode,
        uid=uid,
        cookie=cookie,
        receive_queue=received,
        send_queue=sent,
        ends=SocketEnds(attributes.get(_INET_DIAG_SHUTDOWN, b"\0")[0] & 3),
        upper_protocol=name.rstrip(b"\0").decode("ascii", "replace"),
        signature_keys=attributes.get(_INET_DIAG_MD5SIG, b""),
    )


def _stands_in(payload: bytes) -> bool:
    """Marks are told to those with CAP_NET_ADMIN only."""
    mark = dict(_attributes(payload[_MESSAGE.size :])).get(_INET_DIAG_MARK, b"")
    return mark == STAND_IN_MARK.to_bytes(4, sys.byteorder)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _address(family: int, packed: bytes) -> IPAddress:
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _packed(family: int, address: IPAddress) -> bytes:
    """As the kernel holds it: an IPv6 socket has IPv4 addresses v4-mapped."""
    if family == socket.AF_INET6 and address.version == 4 and not address.is_unspecified:
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed
