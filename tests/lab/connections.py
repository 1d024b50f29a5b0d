"""TCP connections between two hosts, and connected UDP sockets, as the kernel lists them.

Read from /proc (proc(5)): whoever waits for sockets to move looks often, and starting ss(8) each time would take the
one processor of a guest kernel from what is waited for.
"""

import ipaddress
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.addressing import IPAddress
from lab.namespace import Namespace

_ESTABLISHED = "01"
_TABLES = {"t": ("tcp", "tcp6"), "u": ("udp", "udp6")}


@dataclass(frozen=True, slots=True)
class Socket:
    """One end of an established connection."""

    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int
    inode: int
    """Stays the same for as long as the program has this socket, wherever it moves."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Both ends."""

    client: Socket
    server: Socket

    @property
    def identity(self) -> tuple[int, int, int]:
        """What no move changes, and every reconnection does: client's port and both sockets."""
        return self.client.local_port, self.client.inode, self.server.inode

    @property
    def addresses(self) -> tuple[IPAddress, IPAddress, IPAddress, IPAddress]:
        """Client's own and remote, server's remote and own: with both hosts agreeing, two equal pairs."""
        return self.client.local, self.client.remote, self.server.remote, self.server.local


def sockets(
    host: Namespace, *, protocol: Literal["t", "u"] = "t", own_port: int | None = None, peer_port: int | None = None
) -> list[Socket]:
    """Connected TCP (UDP) sockets: all, or those with these ports."""
    found = []
    for table in _TABLES[protocol]:
        for line in Path(f"/proc/{host.holder_pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            _, own, peer, state, *_, inode = line.split()[:10]
            socket = Socket(*_end(own), *_end(peer), int(inode))
            if (
                state == _ESTABLISHED
                and own_port in (None, socket.local_port)
                and peer_port in (None, socket.remote_port)
            ):
                found.append(socket)
    return found


def _end(text: str) -> tuple[IPAddress, int]:
    """Address and port. The address is in words of the machine; IPv4 as such also where an IPv6 socket has it."""
    words, port = text.split(":")
    packed = b"".join(struct.pack("=I", int(words[start : start + 8], 16)) for start in range(0, len(words), 8))
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address, int(port, 16)


def connections(client: Namespace, server: Namespace, port: int | None = None) -> list[Connection]:
    """All connections of the client host to a port of the server host, or to any, by the ports."""
    own = {(socket.local_port, socket.remote_port): socket for socket in sockets(client, peer_port=port)}
    theirs = {(socket.remote_port, socket.local_port): socket for socket in sockets(server, own_port=port)}
    return [Connection(own[ports], theirs[ports]) for ports in sorted(own.keys() & theirs.keys())]
