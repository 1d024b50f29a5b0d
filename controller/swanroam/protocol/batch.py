"""One transfer as its leader keeps account of it, and the requests that follow from that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Connection, IPAddress, Obstacle, TransferRequest, TransferStage
from swanroam.protocol.transfer import Kept, Key, LetGo, StopSockets, UnlockSockets

AT_THE_PEER = "at the peer"
"""The detail of what hinders only the peer's side of a connection."""


@dataclass(slots=True)
class Batch:
    """One transfer."""

    old: Pair
    new: Pair
    keys: tuple[Key, ...]
    ahead: frozenset[Key] = frozenset()
    """Ours stand at the new pair already, the peer's perhaps not."""
    elsewhere: tuple[Pair, ...] = ()
    """All other pairs."""
    transfer: int = 0
    agreed: tuple[int, bytes] | None = None
    """Sequence and handover when the peer said what could move: all that follows belongs to them."""
    alone: set[Key] = field(default_factory=set)
    """The peer has nothing to do for these."""
    own: dict[Key, int] = field(default_factory=dict)
    """Numbers of our stopped sockets."""
    moved: set[Key] = field(default_factory=set)
    """Ours, at the new pair."""
    theirs: dict[Key, int] = field(default_factory=dict)
    """The peer's numbers: its sockets are at the new pair."""

    there: dict[Key, int] = field(default_factory=dict)
    """The peer's numbers of sockets that it had moved before: an earlier attempt was cut short."""
    refused: set[Key] = field(default_factory=set)
    """The peer's are where they were, for certain, and so are ours: at the old pair."""
    expired: bool = False
    """Our programs ran on before they were let go: the round ends with this transfer."""

    @property
    def asked(self) -> set[Key]:
        """What the peer is asked to move."""
        return set(self.own) - self.alone - set(self.there)

    @property
    def doubtful(self) -> tuple[Key, ...]:
        """Ours is not at the new pair, and the peer's may be; or the other way round."""
        apart = {*self.there, *self.ahead}.intersection(self.keys)  # also if their programs could not be stopped
        return tuple(sorted((apart | self.own.keys()) - self.alone - self.moved - self.refused))

    @property
    def returning(self) -> tuple[Key, ...]:
        """Ours is not at the new pair, and the peer's is."""
        return tuple(sorted(set(self.theirs) - self.moved))

    def stop(self) -> StopSockets:
        """Our programs."""
        return StopSockets(self.transfer, self.old, self.new, self.keys, self.ahead.intersection(self.keys))

    def let_go(self) -> LetGo:
        """Our programs, with the sockets where they are. Of what could not be stopped nothing new is known."""
        keys = tuple(key for key in self.keys if key in self.own)
        return LetGo(
            self.transfer,
            self.old,
            self.new,
            keys,
            doubtful=self.doubtful,
            arrived=tuple(sorted(self.moved - self.alone)),
            elsewhere=self.elsewhere,
        )

    def unlock(self, keys: Collection[Key], elsewhere: tuple[Pair, ...] = ()) -> list[UnlockSockets]:
        """These, if there are any."""
        return [UnlockSockets(self.old, self.new, tuple(sorted(keys)), elsewhere)] if keys else []

    def request(self, stage: TransferStage, sequence: int, handover: bytes) -> TransferRequest:
        """What the peer is asked for. Sequence and handover are those of now."""
        match stage:
            case TransferStage.PREPARE:
                entries = [_connection(key) for key in self.keys]
            case TransferStage.MOVE:
                entries = [_connection(key, self.own[key]) for key in sorted(self.asked)]
            case _:
                at_old = self.refused.union(self.returning)  # the former as well: the peer may unlock them
                entries = [
                    _connection(key, self.own[key], Obstacle.FAILED if key in at_old else Obstacle.NONE)
                    for key in sorted(self.refused | self.theirs.keys())
                ]
        sequence, handover = self.agreed or (sequence, handover)
        old, new = _ends(self.old), _ends(self.new)
        return TransferRequest(sequence, handover, self.transfer, stage, old, new, tuple(entries))


def farewell(new: Pair, sequence: int, handover: bytes) -> TransferRequest:
    """That was all for now."""
    ends = _ends(new)
    return TransferRequest(sequence, handover, 0, TransferStage.FINISH, ends, ends, ())


def obstacle_of(said: Mapping[Key, Connection], key: Key) -> Obstacle:
    """What the peer said of a connection; one that it left out has failed."""
    return said[key].obstacle if key in said else Obstacle.FAILED


def obstacles(said: Mapping[Key, Connection], keys: Iterable[Key]) -> list[Kept]:
    """Why these are kept, as the peer said."""
    found = ((key, obstacle_of(said, key)) for key in keys)
    return [Kept(key, obstacle, AT_THE_PEER) for key, obstacle in found if obstacle is not Obstacle.NONE]


def _connection(key: Key, number: int = 0, obstacle: Obstacle = Obstacle.NONE) -> Connection:
    return Connection(key.transport, key.port, key.remote_port, obstacle, number)


def _ends(pair: Pair) -> tuple[IPAddress, IPAddress]:
    return pair.local, pair.remote
