"""The kernel's raw interface for taking a TCP socket apart and putting it together: TCP_REPAIR.

Source: tcp(7), net/ipv4/tcp.c and include/uapi/linux/tcp.h of 6.1 to 6.18. Needs CAP_NET_ADMIN in the user namespace
that owns the socket's network namespace. Every function raises OSError as the kernel gives it.

Sockets handed in here are without a time limit of Python's: with one, Python would wait where the kernel says EAGAIN.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from dataclasses import dataclass

from swanroam.kernel.sock_diag import SocketState
from swanroam.transport.image import SEQUENCE_MASK, Window

TCP_REPAIR = 19
TCP_REPAIR_QUEUE = 20
TCP_QUEUE_SEQ = 21
TCP_REPAIR_OPTIONS = 22
TCP_NOTSENT_LOWAT = 25
TCP_REPAIR_WINDOW = 29
TCP_ULP = 31
TCP_AO_INFO = 40
IP_LOCAL_PORT_RANGE = 51
IP_BIND_ADDRESS_NO_PORT = 24
SO_PEEK_OFF = 42
SO_BINDTOIFINDEX = 62
SO_BUF_LOCK = 72
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

NO_QUEUE = 0
RECEIVE_QUEUE = 1
SEND_QUEUE = 2

_REPAIR_ON = 1
_REPAIR_OFF_WITH_PROBE = 0
_REPAIR_OFF = -1
_OPTION_SEGMENT_LIMIT = 2  # TCPOPT_MSS, TCPOPT_WINDOW, TCPOPT_SACK_PERM, TCPOPT_TIMESTAMP
_OPTION_SCALE = 3
_OPTION_SELECTIVE_ACKS = 4
_OPTION_TIMESTAMPS = 8
_INFO_TIMESTAMPS = 1  # TCPI_OPT_*
_INFO_SELECTIVE_ACKS = 2
_INFO_SCALE = 4
_INFO_SIZE = 8
_SIOCINQ = 0x541B
_SIOCOUTQ = 0x5411
_AO_INFO_SIZE = 56
_MIN_LIMIT = 88  # TCP_MIN_MSS and MAX_TCP_WINDOW, the bounds of TCP_MAXSEG
_MAX_LIMIT = 32767
_LARGEST_SEGMENT = 1 << 16

_NUMBER = struct.Struct("=I")
_OPTION = struct.Struct("=II")  # struct tcp_repair_opt
_WINDOW = struct.Struct("=5I")  # struct tcp_repair_window
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Info:
    """The beginning of struct tcp_info."""

    state: SocketState
    timestamps: bool
    selective_acks: bool
    send_scale: int
    receive_scale: int


def info(sock: socket.socket) -> Info:
    """What the connection has agreed on. Scales are 0 where window scaling was not agreed on."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
    scales = raw[6] if raw[5] & _INFO_SCALE else 0
    return Info(
        state=SocketState(raw[0]),
        timestamps=bool(raw[5] & _INFO_TIMESTAMPS),
        selective_acks=bool(raw[5] & _INFO_SELECTIVE_ACKS),
        send_scale=scales & 0xF,
        receive_scale=scales >> 4,
    )


def enter(sock: socket.socket) -> None:
    """Repair mode; loses SO_REUSEADDR."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, _REPAIR_ON)


def leave(sock: socket.socket, reuse_address: int, *, probe: bool = False) -> None:
    """Back to normal, with SO_REUSEADDR as given. `probe`: and ask an established peer for its window."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, _REPAIR_OFF_WITH_PROBE if probe else _REPAIR_OFF)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse_address)


def disconnect(sock: socket.socket) -> None:
    """connect(AF_UNSPEC): in repair mode the socket forgets its connection, queues and peer, and tells nobody.

    What stays of its local address tells what its program bound (`binding.place`).
    """
    address = struct.pack("=H14x", socket.AF_UNSPEC)
    if _libc.connect(sock.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"connect(AF_UNSPEC): {os.strerror(number)}")


def choose_queue(sock: socket.socket, queue: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)


def sequence(sock: socket.socket) -> int:
    """Of the chosen queue: the sequence number after its last octet, FIN included."""
    return unsigned(sock, socket.IPPROTO_TCP, TCP_QUEUE_SEQ)


def set_sequence(sock: socket.socket, queue: int, number: int) -> None:
    """Only while the socket is disconnected."""
    choose_queue(sock, queue)
    set_unsigned(sock, socket.IPPROTO_TCP, TCP_QUEUE_SEQ, number & SEQUENCE_MASK)


def unsigned(sock: socket.socket, level: int, option: int) -> int:
    number: int
    (number,) = _NUMBER.unpack(sock.getsockopt(level, option, _NUMBER.size))
    return number


def set_unsigned(sock: socket.socket, level: int, option: int, value: int) -> None:
    sock.setsockopt(level, option, _NUMBER.pack(value))


def optional(sock: socket.socket, level: int, option: int) -> int | None:
    """An unsigned option; None where the kernel doesn't know it."""
    try:
        return unsigned(sock, level, option)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            return None
        raise


def unread(sock: socket.socket) -> int:
    """Octets that the program can read, up to urgent ones. Not FIN. Source: tcp_inq() in include/net/tcp.h."""
    return _ioctl(sock, _SIOCINQ)


def unconfirmed(sock: socket.socket) -> int:
    """Octets, FIN included, that the peer has not acknowledged."""
    return _ioctl(sock, _SIOCOUTQ)


def _ioctl(sock: socket.socket, request: int) -> int:
    answer = fcntl.ioctl(sock.fileno(), request, bytes(4))
    return int.from_bytes(answer, sys.byteorder, signed=True)


def copy_queue(sock: socket.socket, size: int) -> bytes:
    """The last `size` octets of the chosen queue, which stays as it is.

    The send queue can begin with acknowledged octets: the kernel cuts no segment that is acknowledged in part
    (tcp_clean_rtx_queue() in net/ipv4/tcp_input.c).
    """
    if not size:
        return b""
    buffer = bytearray(size + _LARGEST_SEGMENT)
    count = sock.recv_into(buffer, len(buffer), socket.MSG_PEEK | socket.MSG_DONTWAIT)
    if count < size:
        raise OSError(errno.EIO, f"the kernel gives {count} of {size} octets of a queue")
    return bytes(memoryview(buffer)[count - size : count])


def limit_segments(sock: socket.socket, limit: int) -> None:
    """What connect() takes for the peer's limit; 0 for none. Octets.

    `set_agreed` alone comes too late: the kernel goes on with the segment size that connecting has led to, which is
    the smallest (tcp_connect_init() in net/ipv4/tcp_output.c, tcp_current_mss()).
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, limit and min(max(limit, _MIN_LIMIT), _MAX_LIMIT))


def set_agreed(
    sock: socket.socket,
    *,
    segment_limit: int,
    selective_acks: bool,
    timestamps: bool,
    send_scale: int,
    receive_scale: int,
) -> None:
    """What the two ends agreed on in the handshake that this socket has skipped.

    Scales are always set: connect() has put in what this host would offer, and a 0 is what none comes to.
    """
    options = _OPTION.pack(_OPTION_SCALE, send_scale | receive_scale << 16)
    if selective_acks:
        options += _OPTION.pack(_OPTION_SELECTIVE_ACKS, 0)
    if timestamps:
        options += _OPTION.pack(_OPTION_TIMESTAMPS, 0)
    options += _OPTION.pack(_OPTION_SEGMENT_LIMIT, segment_limit)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_OPTIONS, options)


def window(sock: socket.socket) -> Window:
    return Window(*_WINDOW.unpack(sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, _WINDOW.size)))


def set_window(sock: socket.socket, new: Window) -> None:
    raw = _WINDOW.pack(new.send_update, new.send, new.send_largest, new.receive, new.receive_update)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, raw)


def signed_with_ao(sock: socket.socket) -> bool:
    """Whether TCP-AO (RFC 5925; Linux 6.7) guards the connection."""
    raw = ctypes.create_string_buffer(_AO_INFO_SIZE)
    length = ctypes.c_uint32(_AO_INFO_SIZE)
    if _libc.getsockopt(sock.fileno(), socket.IPPROTO_TCP, TCP_AO_INFO, raw, ctypes.byref(length)) == 0:
        return True
    return ctypes.get_errno() not in (errno.ENOENT, errno.ENOPROTOOPT)
