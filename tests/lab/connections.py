"""TCP connections between two hosts, and connected UDP sockets, as `ss` shows them."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from lab.addressing import IPAddress
from lab.host import Host

_LINE = re.compile(r"^\d+\s+\d+\s+(\S+):(\d+)\s+(\S+):(\d+)\s.*\bino:(\d+)\b")


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


def sockets(host: Host, expression: str = "", *, protocol: Literal["t", "u"] = "t") -> list[Socket]:
    """Connected TCP (UDP) sockets that match a filter of ss(8)."""
    shown = host.run(["ss", f"-H{protocol}ne", "state", "established", *expression.split()]).stdout
    found = []
    for line in shown.splitlines():
        match = _LINE.match(line)
        assert match, line
        local, local_port, remote, remote_port, inode = match.groups()
        found.append(Socket(_address(local), int(local_port), _address(remote), int(remote_port), int(inode)))
    return found


def _address(text: str) -> IPAddress:
    """Without brackets and device; IPv4 as such also where an IPv6 socket has it."""
    address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def connections(client: Host, server: Host, port: int | None = None) -> list[Connection]:
    """All connections of the client host to a port of the server host, or to any, by the ports."""
    filters = ("", "") if port is None else (f"dport = {port}", f"sport = {port}")
    own = {(socket.local_port, socket.remote_port): socket for socket in sockets(client, filters[0])}
    theirs = {(socket.remote_port, socket.local_port): socket for socket in sockets(server, filters[1])}
    return [Connection(own[ports], theirs[ports]) for ports in sorted(own.keys() & theirs.keys())]
