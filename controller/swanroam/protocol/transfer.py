"""What the two machines of a transfer order of their hosts, and what they hear back. Data only.

A *transfer* moves up to MAX_CONNECTIONS sockets of two hosts from one address pair to another, together. `leader` and
`follower` have the theory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Connection, Obstacle, Transport


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What tells a connection from the others of an address pair, as this host sees it."""

    transport: Transport
    port: int
    """Of this host."""
    remote_port: int

    @classmethod
    def of(cls, connection: Connection, *, ours: bool) -> Key:
        """Of a connection in a message that is ours, or the peer's: then its sender's port is our remote port."""
        ports = (connection.port, connection.remote_port)
        return cls(connection.transport, *(ports if ours else reversed(ports)))

    def __str__(self) -> str:
        return f"{self.transport.name.lower()} {self.port}-{self.remote_port}"


@dataclass(frozen=True, slots=True)
class Kept:
    """A socket that is not moved."""

    key: Key
    obstacle: Obstacle
    detail: str = ""
    """For a person; empty when the obstacle says all."""
    owners: tuple[str, ...] = ()
    """The programs that have it, as name/pid, where known."""


Numbers = tuple[tuple[Key, int], ...]
"""For each connection the sequence number that a host's socket expects next; 0 for UDP."""


@dataclass(frozen=True, slots=True)
class FindSockets:
    """Which connected sockets does this host have between these addresses, and could they move?

    Also those at the new pair that are locked at the old one: see SocketsFound.
    """

    old: Pair
    new: Pair
    settled: frozenset[Key]
    """Not to be looked at again: they cannot move, now or later."""
    apart: tuple[Pair, ...] = ()
    """If not empty, only TCP sockets that are locked at one of these pairs, where the peer's may be."""


@dataclass(frozen=True, slots=True)
class SocketsFound:
    old: Pair
    new: Pair
    movable: tuple[Key, ...]
    kept: tuple[Kept, ...]
    ahead: frozenset[Key] = frozenset()
    """Of both those that stand at the new pair already, locked at the old one, where the peer's may be."""


@dataclass(frozen=True, slots=True)
class InspectSockets:
    """Could these move? Changes nothing."""

    transfer: int
    old: Pair
    new: Pair
    keys: tuple[Key, ...]
    elsewhere: tuple[Pair, ...] = ()
    """Other pairs, to which an earlier transfer may have taken a TCP socket while the peer's stayed at the old one."""


@dataclass(frozen=True, slots=True)
class SocketsInspected:
    """Those that could not, and the numbers of those that are at the new pair already.

    UDP sockets on all addresses have NOTHING_TO_DO.
    """

    transfer: int
    kept: tuple[Kept, ...]
    numbers: Numbers = ()


@dataclass(frozen=True, slots=True)
class StopSockets:
    """Stop their programs, let nothing in, tell the numbers. Limited in time by the host."""

    transfer: int
    old: Pair
    new: Pair
    keys: tuple[Key, ...]
    ahead: frozenset[Key] = frozenset()
    """Of these, those that stand at the new pair, and stay there."""


@dataclass(frozen=True, slots=True)
class SocketsStopped:
    transfer: int
    numbers: Numbers
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class RebuildSockets:
    """Take stopped sockets to the new pair, by the peer's numbers; others stay, the new pair locked for them.

    Those that stand there already are let go as they are, the old pair locked.
    """

    transfer: int
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class MoveSockets:
    """Stop and rebuild in one, and hold."""

    transfer: int
    old: Pair
    new: Pair
    numbers: Numbers
    """The peer's."""
    elsewhere: tuple[Pair, ...] = ()
    """As for InspectSockets."""


@dataclass(frozen=True, slots=True)
class SocketsMoved:
    """After RebuildSockets and MoveSockets: those that stand at the new pair, with their own numbers."""

    transfer: int
    numbers: Numbers
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class LetGo:
    """Let the programs of a transfer run on; `back` go to the old pair first, also when they ran on already."""

    transfer: int
    old: Pair
    new: Pair
    keys: tuple[Key, ...]
    back: Numbers = ()
    """With the peer's numbers."""
    doubtful: tuple[Key, ...] = ()
    """The peer's sockets of these may be elsewhere: the pair where ours are not stays locked."""
    arrived: tuple[Key, ...] = ()
    """Both ends of these stand at the new pair: nothing is locked `elsewhere` any more."""
    elsewhere: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True)
class SocketsLetGo:
    transfer: int
    kept: tuple[Kept, ...] = ()
    """Those that are not where they were to be."""


@dataclass(frozen=True, slots=True)
class UnlockSockets:
    """Nothing is in doubt any more."""

    old: Pair
    new: Pair
    keys: tuple[Key, ...]
    elsewhere: tuple[Pair, ...] = ()
    """Other pairs at which they may be locked."""


@dataclass(frozen=True, slots=True)
class MoveDatagramSockets:
    """Re-connect UDP sockets that no transfer has named: the peer's side of them serves every address."""

    old: Pair
    new: Pair


@dataclass(frozen=True, slots=True)
class DatagramSocketsMoved:
    """After MoveDatagramSockets: those that could have moved."""

    old: Pair
    new: Pair


@dataclass(frozen=True, slots=True)
class TransferExpired:
    """The limit has passed: the programs run again, the sockets are where they were at that moment."""

    transfer: int


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """An order could not be carried out at all."""

    transfer: int
    reason: str


TransferOrder = (
    FindSockets
    | InspectSockets
    | StopSockets
    | RebuildSockets
    | MoveSockets
    | LetGo
    | UnlockSockets
    | MoveDatagramSockets
)
TransferEvent = (
    SocketsFound
    | SocketsInspected
    | SocketsStopped
    | SocketsMoved
    | SocketsLetGo
    | DatagramSocketsMoved
    | TransferExpired
    | TransferFailed
)


MOST_KEPT = 8192
"""Kept sockets that are remembered. A peer can name as many as it likes."""


@dataclass(slots=True)
class Tally:
    """What has become of the sockets that were on old pairs of a peer."""

    moved: int = 0
    """To the current pair."""
    moved_ever: int = 0
    lost_ever: int = 0
    """Connections that ended because a socket could not be put together again."""
    kept: dict[tuple[Pair, Key], Kept] = field(default_factory=dict)
    """By the pair that they are on."""
    movable: set[Key] = field(default_factory=set)
    """They have moved before, and so can move again."""

    def keep(self, old: Pair, kept: Iterable[Kept]) -> None:
        """These stay on a pair, for the time being. What is not there is not worth remembering."""
        for entry in kept:
            known = self.kept.get((old, entry.key))
            if entry.obstacle is Obstacle.LOST and (known is None or known.obstacle is not Obstacle.LOST):
                self.lost_ever += 1
            if entry.obstacle is not Obstacle.NOT_FOUND and len(self.kept) < MOST_KEPT:
                self.kept[old, entry.key] = entry

    def move(self, old: Pair, keys: Collection[Key]) -> None:
        """These have moved."""
        self.moved += len(keys)
        self.moved_ever += len(keys)
        if len(self.movable) > MOST_KEPT:
            self.movable.clear()
        self.movable.update(keys)
        for key in keys:
            self.kept.pop((old, key), None)
