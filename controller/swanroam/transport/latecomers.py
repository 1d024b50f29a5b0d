"""Datagrams that come for addresses that a UDP socket has just left reach it where it is now.

Whatever is under way while a socket is re-addressed would find nobody; and a server that is not connected goes on
sending to the old address until it has heard from the new one. Neither can be waited for: the first is a matter of the
network, the second of the programs. So before a socket leaves its addresses, a *stand-in* takes its place there: a
socket of the mover's with the same ends, as SO_REUSEADDR allows. At every moment one of the two has the ends, and no
datagram is lost between them. What the stand-in gets goes on to the socket's new ends by way of `lo`, as a datagram of
the peer's: written to a raw socket, and with a pass (`kernel.xfrm.passes`), for it was protected when it came. It stays
for STAY seconds.

When a socket comes back to ends that have a stand-in, that goes first. One that has moved on has left a stand-in behind
at each place, each of which hands on to the next.

A datagram is handed on as it is, but for what its IP header has beside the addresses (TOS, TTL). It does not reach a
socket that is bound to a device. Nothing here is owed to anybody: what fails (there are too many, the port is another
socket's too, a capability is missing) loses datagrams that were lost without it.
Source: udp(7), raw(7); udp_lib_lport_inuse() and compute_score() in net/ipv4/udp.c; loopback_xmit().
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from swanroam.kernel import receive_buffer
from swanroam.kernel.sock_diag import STAND_IN_MARK, IPAddress, SocketProtocol
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.passes import PASS_MARK, Ends, add_passes, remove_passes
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.transport.jobs import Held
from swanroam.transport.orders import Place

STAY: Final = 5.0
"""Seconds for which datagrams are handed on. A receiver of a stream, which hardly sends, does so every five seconds
(RFC 3550 §6.2); others are sooner heard from the new address."""
MOST: Final = 256
"""Stand-ins at a time, each of which has a descriptor."""
_BUFFER: Final = 1 << 22
"""Octets that a stand-in holds while the mover is busy with stopping programs."""
_LARGEST: Final = 1 << 16
_AT_A_TIME: Final = 64
"""Datagrams of one stand-in before others have their turn."""
_HEADER: Final = struct.Struct("!HHHH")  # ports, length, checksum (RFC 768)
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_HOPS: Final = 64
_NOBODY: Final = 9
"""The port "discard", of this host: nothing comes from there."""


@dataclass(slots=True)
class _StandIn:
    sock: socket.socket
    target: Ends
    """Where the socket is."""
    end: asyncio.TimerHandle | None = None
    """None while the socket has not left."""


class Latecomers:
    """`spawn` runs what has to be done later; it is done within STAY seconds and never raises."""

    def __init__(self, xfrm: XfrmSocket, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._xfrm = xfrm
        self._spawn = spawn
        self._stand_ins: dict[Ends, _StandIn] = {}
        self._senders: dict[int, socket.socket] = {}
        self._passes: set[Ends] = set()

    @property
    def expected(self) -> bool:
        """Somebody stands in for a socket."""
        return bool(self._stand_ins)

    def stand_in(self, sockets: Collection[Held]) -> None:
        """Before these UDP sockets leave the place where they stand; `settle` must follow when they have."""
        for held in sockets:
            ends = held.entry.ends(held.place)
            with suppress(OSError):
                self._sender(ends[0].version)
                held.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if ends not in self._stand_ins and len(self._stand_ins) < MOST:
                    self._stand_ins[ends] = _StandIn(_socket_at(ends), ends)

    async def settle(self, sockets: Collection[Held]) -> None:
        """The sockets stand where they say; also those that could not leave."""
        follows: dict[Ends, _StandIn] = {}
        for held in sockets:
            here = held.entry.ends(held.place)
            with suppress(OSError):
                held.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, held.reuse_address)
            for ends in (here, held.entry.ends(_other(held.place))):
                if (stand_in := self._stand_ins.get(ends)) is not None:
                    stand_in.target = here
                    follows[ends] = stand_in
        if passes := {stand_in.target for stand_in in follows.values()}:
            self._passes |= passes
            with suppress(XfrmError):  # what needs one is lost then
                await add_passes(self._xfrm, passes, int(STAY) + 1)
        for ends, stand_in in follows.items():
            if ends == stand_in.target:
                del self._stand_ins[ends]
                self._end(stand_in)
            else:
                self._begin(ends, stand_in)
        await self._drop_passes()

    async def close(self) -> None:
        """Nothing is handed on any more."""
        for stand_in in self._stand_ins.values():
            self._end(stand_in)
        self._stand_ins.clear()
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
        await self._drop_passes()

    def _begin(self, ends: Ends, stand_in: _StandIn) -> None:
        loop = asyncio.get_running_loop()
        if stand_in.end is not None:
            stand_in.end.cancel()
        stand_in.end = loop.call_later(STAY, self._expire, ends)
        loop.add_reader(stand_in.sock, self._hand_on, stand_in)

    def _expire(self, ends: Ends) -> None:
        self._end(self._stand_ins.pop(ends))
        self._spawn(self._drop_passes())

    def _end(self, stand_in: _StandIn) -> None:
        """What has come is handed on, and from the first moment nothing more comes to it."""
        if stand_in.end is not None:
            stand_in.end.cancel()
            asyncio.get_running_loop().remove_reader(stand_in.sock)
        local = stand_in.sock.getsockname()[0]
        with suppress(OSError):
            stand_in.sock.connect((local, _NOBODY))  # not disconnected: strangers' datagrams must not be handed on
        while self._hand_on(stand_in):
            pass
        stand_in.sock.close()

    async def _drop_passes(self) -> None:
        """Those for ends to which nothing is handed on any more."""
        unneeded = self._passes - {stand_in.target for stand_in in self._stand_ins.values()}
        self._passes -= unneeded
        if unneeded:
            with suppress(XfrmError):  # they expire
                await remove_passes(self._xfrm, unneeded)

    def _hand_on(self, stand_in: _StandIn) -> bool:
        """Some of what has come; tells whether there may be more."""
        for _ in range(_AT_A_TIME):
            try:
                data = stand_in.sock.recv(_LARGEST)
            except BlockingIOError:
                return False
            except OSError:  # an ICMP error of something that the program has sent, told once
                continue
            with suppress(OSError):
                local = stand_in.target[0]
                self._sender(local.version).sendto(datagram(stand_in.target, data), (str(local), 0))
        return True

    def _sender(self, version: int) -> socket.socket:
        """Raises OSError."""
        if version not in self._senders:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            sender = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
            self._senders[version] = sender
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PASS_MARK)
        return self._senders[version]


def udp(sockets: Collection[Held]) -> list[Held]:
    """Those that datagrams come for."""
    return [held for held in sockets if held.entry.protocol is SocketProtocol.UDP]


def datagram(ends: Ends, data: bytes) -> bytes:
    """What the peer sends to these ends, from the IP header on. The kernel fills in IPv4's checksum and length."""
    local, local_port, remote, remote_port = ends
    length = _HEADER.size + len(data)
    header = _HEADER.pack(remote_port, local_port, length, 0)
    if local.version == 4:  # without a checksum of UDP's, as RFC 768 allows
        ip = _IPV4.pack(0x45, 0, 0, 0, 0, _HOPS, socket.IPPROTO_UDP, 0, remote.packed, local.packed)
        return ip + header + data
    pseudo_header = remote.packed + local.packed + struct.pack("!II", length, socket.IPPROTO_UDP)  # RFC 8200 §8.1
    header = _HEADER.pack(remote_port, local_port, length, _checksum(pseudo_header + header + data))
    return _IPV6.pack(6 << 28, length, socket.IPPROTO_UDP, _HOPS, remote.packed, local.packed) + header + data


def _checksum(data: bytes) -> int:
    """RFC 1071; UDP writes 0 as all ones."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def _socket_at(ends: Ends) -> socket.socket:
    """Raises OSError."""
    local, local_port, remote, remote_port = ends
    family = socket.AF_INET if local.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, STAND_IN_MARK)
        receive_buffer.enlarge(sock, _BUFFER)
        sock.bind(_address(local, local_port))
        sock.connect(_address(remote, remote_port))
    except OSError:
        sock.close()
        raise
    return sock


def _address(address: IPAddress, port: int) -> tuple[str, int]:
    return str(address), port


def _other(place: Place) -> Place:
    return Place.OLD if place is Place.NEW else Place.NEW
