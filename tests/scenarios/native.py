"""Are the connections themselves at the hosts' present addresses, and are they still the same ones?

native = Native(story)                  # what is open now, on both hosts
lab.mobile.move_to("net-b")
native.wait()                           # both kernels show the present addresses, of the same sockets
"""

import time
from dataclasses import dataclass

from lab.addressing import IPAddress
from lab.connections import Connection, Socket, connections, sockets
from lab.host import Host
from lab.waiting import wait_for
from scenarios.scenario import Story

OPENING = 20.0
"""Seconds in which a program is to have opened its connections."""
SETTLING = 60.0
"""Seconds in which sockets are to be there: several attempts, on a slow machine."""


@dataclass(frozen=True, slots=True)
class Datagrams:
    """A connected UDP socket. Its other end need not be connected."""

    host: str
    socket: Socket

    @property
    def identity(self) -> tuple[str, int, int]:
        """What no move changes."""
        return self.host, self.socket.local_port, self.socket.inode


class Native:
    """The connections of the mobile host to the correspondent (to one port of it, if given) that are open now.

    Without a port, those of the other direction and all connected UDP sockets belong to it as well.
    """

    def __init__(self, story: Story, port: int | None = None, *, least: int = 1) -> None:
        """Raises LabTimeoutError unless `least` of them are there soon."""
        self._mobile, self._correspondent = story.lab.mobile, story.lab.correspondent
        self._port = port
        wait_for(lambda: len(self._entries()) >= least, OPENING, f"{least} connections are open")
        self._identities = {entry.identity for entry in self._entries()}

    def __len__(self) -> int:
        return len(self._identities)

    def _entries(self) -> list[Connection | Datagrams]:
        found: list[Connection | Datagrams] = [*connections(self._mobile, self._correspondent, self._port)]
        if self._port is None:
            for host in (self._mobile, self._correspondent):
                found += [Datagrams(host.name, entry) for entry in sockets(host, protocol="u")]
        return found

    def wait(self, timeout: float = SETTLING) -> float:
        """Until all are at the present addresses, on both hosts, and none is new. Returns the seconds that it took."""
        began = time.monotonic()
        wait_for(
            lambda: {entry.identity for entry in self._entries() if self._is_native(entry)} == self._identities,
            timeout,
            f"the {len(self)} connections, and no others, are {self._mobile.address} - {self._correspondent.address}",
            lambda: "\n".join(map(str, [*self._entries(), "expected:", *self._identities])),
            poll=0.1,
        )
        return time.monotonic() - began

    def _is_native(self, entry: Connection | Datagrams) -> bool:
        """At both ends, where there are two."""
        if isinstance(entry, Connection):
            return entry.addresses == self._pair(self._mobile) * 2
        host = self._mobile if entry.host == self._mobile.name else self._correspondent
        return (entry.socket.local, entry.socket.remote) == self._pair(host)

    def _pair(self, host: Host) -> tuple[IPAddress, IPAddress]:
        """Own address and the other host's, as they are now."""
        pair = self._mobile.address, self._correspondent.address
        return pair if host is self._mobile else (pair[1], pair[0])
