"""Which sockets of this host use an address, and which programs own them.

Read over NETLINK_SOCK_DIAG (sock_diag(7)) with a filter that the kernel applies, so a host with 100 000 connections
costs no more than those that match. Only sockets of the network namespace of the calling thread are seen.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

IPAddress = IPv4Address | IPv6Address

ANSWER_TIMEOUT = 10.0
"""Seconds for each part of the kernel's answer."""

SCAN_TIME = 5.0
"""Seconds after which `owners` answers with what it has found; 10 000 descriptors take about 0.05."""


class SocketDiagError(Exception):
    """The kernel's sockets could not be read."""


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
    """By which `owners` finds its processes; 0 when no process has it any more."""
    uid: int

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
class Owner:
    """A process that has a socket open."""

    pid: int
    command: str
    """comm of the process: its name, at most 15 characters."""


async def sockets_on(local: IPAddress | None = None, remote: IPAddress | None = None) -> tuple[SocketInUse, ...]:
    """TCP and UDP sockets with this local and this remote address; None stands for any.

    A socket that is bound to the unspecified address is not on a particular one, and is found only when asked for
    with that or with None. Connections in TIME_WAIT are there too: see `SocketInUse.lingering`. The answer is sorted.

    Raises SocketDiagError.
    """
    condition = _bytecode(local, remote)
    found: list[SocketInUse] = []
    with _open() as netlink:
        for sequence, (family, protocol) in enumerate(_questions(local, remote), start=1):
            async for message in _ask(netlink, sequence, _request(family, protocol, condition)):
                entry = _decode(message, protocol)
                if _matches(entry, local, remote):
                    found.append(entry)
    return tuple(
        sorted(found, key=lambda entry: (entry.protocol.name, entry.local_port, str(entry.remote), entry.remote_port))
    )


async def owners(inodes: Collection[int]) -> dict[int, tuple[Owner, ...]]:
    """The processes that have the sockets with these inodes open, in order of their ids.

    A socket that nobody has, or whose process may not be looked into (that takes CAP_SYS_PTRACE for those of other
    users, ptrace(2)), is missing from the answer. Reads /proc in a thread of its own, for at most `SCAN_TIME`.
    """
    wanted = frozenset(inodes) - {0}
    return await asyncio.to_thread(_scan_processes, wanted) if wanted else {}


# NETLINK_SOCK_DIAG. Source: include/uapi/linux/{netlink,sock_diag,inet_diag}.h

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_INET_DIAG_REQ_BYTECODE = 1
_INET_DIAG_BC_S_COND = 7
_INET_DIAG_BC_D_COND = 8
_ALL_STATES = 0xFFFFFFFF

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2, followed by a struct inet_diag_sockid
_SOCKID = struct.Struct("=2s2s16s16sI8s")  # ports and addresses in network order, interface, cookie
_MESSAGE = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg: ..., expires, rqueue, wqueue, uid, inode
_CONDITION = struct.Struct("=BBxxi")  # struct inet_diag_hostcond, followed by the address
_OPERATION = struct.Struct("=BBH")  # struct inet_diag_bc_op: code, jump if true, jump if false
_ATTRIBUTE = struct.Struct("=HH")

_RECEIVE_SIZE = 1 << 16


def _open() -> socket.socket:
    try:
        return socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
    except OSError as error:
        raise SocketDiagError(
            f"the kernel does not let its sockets be read: {error}; it needs CONFIG_INET_DIAG (modprobe inet_diag)"
        ) from error


def _questions(local: IPAddress | None, remote: IPAddress | None) -> Iterator[tuple[int, SocketProtocol]]:
    """Families and protocols that can have a match. IPv6 sockets always can: v4-mapped."""
    families = [socket.AF_INET6]
    if all(address is None or address.version == 4 for address in (local, remote)):
        families.insert(0, socket.AF_INET)
    for family in families:
        for protocol in SocketProtocol:
            yield family, protocol


def _bytecode(local: IPAddress | None, remote: IPAddress | None) -> bytes:
    """Program for the kernel's filter; empty for no filter. Source: inet_diag_bc_run() in net/ipv4/inet_diag.c.

    An IPv4 condition matches v4-mapped addresses of IPv6 sockets as well.
    """
    wanted = [
        (code, address)
        for code, address in ((_INET_DIAG_BC_S_COND, local), (_INET_DIAG_BC_D_COND, remote))
        if address is not None
    ]
    program = b""
    for code, address in reversed(wanted):
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        condition = _CONDITION.pack(family, address.max_prefixlen, -1) + address.packed
        length = _OPERATION.size + len(condition)
        # A jump past the end by 4 is "does not match"; one to the end exactly is "matches".
        program = _OPERATION.pack(code, length, length + len(program) + 4) + condition + program
    return program


def _request(family: int, protocol: SocketProtocol, condition: bytes) -> bytes:
    # The unspecified socket id; the cookie of all ones is INET_DIAG_NOCOOKIE.
    sockid = _SOCKID.pack(b"", b"", b"", b"", 0, b"\xff" * 8)
    request = _REQUEST.pack(family, protocol.value, 0, _ALL_STATES) + sockid
    if condition:
        request += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(condition), _INET_DIAG_REQ_BYTECODE) + condition
    return request


async def _ask(netlink: socket.socket, sequence: int, request: bytes) -> AsyncIterator[bytes]:
    """Send one dump request and give the payload of each answer."""
    loop = asyncio.get_running_loop()
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0)
    try:
        await loop.sock_sendall(netlink, header + request)
        while True:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                datagram = await loop.sock_recv(netlink, _RECEIVE_SIZE)
            offset = 0
            while offset + _HEADER.size <= len(datagram):
                length, kind, _flags, number, _port = _HEADER.unpack_from(datagram, offset)
                payload = datagram[offset + _HEADER.size : offset + length]
                if length < _HEADER.size or offset + length > len(datagram):
                    raise SocketDiagError("the kernel's answer about its sockets is cut off; please report this")
                offset += (length + 3) & ~3
                if number != sequence:
                    continue
                if kind == _NLMSG_DONE:
                    _raise_for(payload)
                    return
                if kind == _NLMSG_ERROR:
                    _raise_for(payload)
                elif kind == _SOCK_DIAG_BY_FAMILY and len(payload) >= _MESSAGE.size:
                    yield payload
            # What is there already is received without suspending; thousands of sockets must not stop the loop.
            await asyncio.sleep(0)
    except TimeoutError as error:
        raise SocketDiagError(f"the kernel has not said within {ANSWER_TIMEOUT:g} s which sockets it has") from error
    except OSError as error:
        raise SocketDiagError(f"the kernel's sockets could not be read: {error}") from error


def _raise_for(payload: bytes) -> None:
    """Raise for the error number that an error message, and the end of a dump, begin with."""
    (code,) = struct.unpack_from("=i", payload) if len(payload) >= 4 else (0,)
    if code == 0:
        return
    reason = os.strerror(-code)
    remedy = "; load them with 'modprobe -a inet_diag tcp_diag udp_diag'" if -code == errno.ENOENT else ""
    raise SocketDiagError(f"the kernel refuses to list its sockets: {reason}{remedy}")


def _decode(payload: bytes, protocol: SocketProtocol) -> SocketInUse:
    family, state, _timer, _retrans, sockid, _expires, _rqueue, _wqueue, uid, inode = _MESSAGE.unpack_from(payload)
    local_port, remote_port, local, remote, interface, _cookie = _SOCKID.unpack(sockid)
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
    )


def _address(family: int, packed: bytes) -> IPAddress:
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _matches(entry: SocketInUse, local: IPAddress | None, remote: IPAddress | None) -> bool:
    """The filter again: kernels leave it out for some kinds of entries."""
    return local in (None, entry.local) and remote in (None, entry.remote)


# /proc. Source: proc_pid_fd(5)

_SOCKET_LINK = re.compile(r"socket:\[(\d+)\]")


def _scan_processes(wanted: frozenset[int], root: Path = Path("/proc")) -> dict[int, tuple[Owner, ...]]:
    """Go through the processes; they may vanish, or forbid it, at any moment."""
    found: dict[int, list[Owner]] = {}
    deadline = time.monotonic() + SCAN_TIME
    for pid in sorted(int(path.name) for path in root.iterdir() if path.name.isdigit()):
        if time.monotonic() > deadline:
            break
        inodes = _sockets_of(root / str(pid)) & wanted
        if not inodes:
            continue
        with suppress(OSError):
            command = (root / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
            for inode in inodes:
                found.setdefault(inode, []).append(Owner(pid, command))
    return {inode: tuple(owning) for inode, owning in found.items()}


def _sockets_of(process: Path) -> set[int]:
    inodes: set[int] = set()
    # The directory vanishes with the process, each entry when it is closed; neither is an error.
    with suppress(OSError), os.scandir(process / "fd") as descriptors:
        for descriptor in descriptors:
            with suppress(OSError):
                target = os.readlink(descriptor.path)  # noqa: PTH115 - a Path for each would double the time
                if match := _SOCKET_LINK.fullmatch(target):
                    inodes.add(int(match[1]))
    return inodes
