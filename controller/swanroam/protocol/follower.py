"""Moving the sockets to the new address: the role of the peer of the host that leads. The theory is `leader`'s.

The follower answers requests and begins nothing by itself. A request that is repeated gets the same answer again. A
transfer begins with PREPARE, which is answered by what the sockets themselves say, so a crash of either side needs no
memory: MOVE and END of a transfer that is not known (any more) change nothing. Nor does what comes late, when the
leader has begun another one: its numbers are old, and it would take sockets away from where the leader's are by now.

The transfer that is known is brought to its end also when its new pair is not the current one any more (`knows`), as
far as that is letting go: nothing is taken there that is not there yet.

How long programs are stopped for a peer is limited (`allowance`). What is beyond is BUSY.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from swanroam.protocol.allowance import Allowance
from swanroam.protocol.events import Action, Send
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import (
    Connection,
    IPAddress,
    Obstacle,
    TransferReply,
    TransferRequest,
    TransferStage,
)
from swanroam.protocol.transfer import (
    DatagramSocketsMoved,
    InspectSockets,
    Kept,
    Key,
    LetGo,
    MoveDatagramSockets,
    MoveSockets,
    SocketsInspected,
    SocketsLetGo,
    SocketsMoved,
    Tally,
    TransferExpired,
    TransferFailed,
)

OVERTAKEN = 64
"""Transfers before the current one that are remembered, for what comes late."""
FAREWELL_PAUSE = 0.5
"""Seconds within which another FINISH is taken for the same one. Rounds are further apart."""
NO_NUMBERS: Mapping[Key, int] = MappingProxyType({})


class Follower:
    """Moves this host's sockets as the leader says."""

    def __init__(self, tally: Tally, stopped_share: float) -> None:
        """`stopped_share`: of the time, for which the leader may have programs stopped."""
        self.tally = tally
        self.finished: Pair | None = None
        """The pair to which the leader has finished a round, since that pair is the current one."""
        self._transfer: int | None = None
        self._old: Pair | None = None
        self._agreed: tuple[int, Pair, Pair] | None = None
        """Of the transfer: the sequence to which it belongs, and between which pairs it is."""
        self._request: TransferRequest | None = None
        """What is being carried out."""
        self._replies: dict[TransferStage, tuple[Connection, ...]] = {}
        self._holding = False
        self._moved: set[Key] = set()
        self._overtaken: deque[int] = deque(maxlen=OVERTAKEN)
        self._finished_at = 0.0
        self._allowance = Allowance(stopped_share)
        self._farewell: TransferRequest | None = None
        """To be answered once there are no `_datagrams` left: pairs whose UDP sockets are being moved."""
        self._datagrams: set[Pair] = set()

    def reconfigure(self, stopped_share: float, now: float) -> None:
        """Another share of the time, from now on."""
        self._allowance.reconfigure(stopped_share, now)

    @property
    def busy(self) -> bool:
        """Sockets are being moved: they cannot be counted now."""
        return self._holding or self._request is not None or bool(self._datagrams)

    @property
    def holding(self) -> bool:
        """Programs of this host are stopped, or are being stopped."""
        return self._holding

    def forget(self, now: float) -> None:
        """The peer is gone."""
        self._transfer = self._request = self._old = self._agreed = self.finished = self._farewell = None
        self._replies.clear()
        self._datagrams.clear()
        self._run_on(now)

    def advance(self, current: Pair) -> None:
        """The current pair may be another one now; should the hosts come back here, there will be a round anew."""
        if self.finished != current:
            self.finished = None

    def knows(self, message: TransferRequest) -> bool:
        """It goes on with the transfer that was prepared last, as it was prepared; the addresses were right then."""
        agreed = (message.sequence, seen_from_here(message.old), seen_from_here(message.new))
        going_on = message.stage in (TransferStage.MOVE, TransferStage.END)
        return going_on and message.transfer == self._transfer and agreed == self._agreed

    def set_aside(self) -> None:
        """This host leads a transfer now: what still comes for the last one is late."""
        if self._transfer is not None and self._request is None:
            self._overtaken.append(self._transfer)
            self._transfer = self._agreed = None

    def overtaken(self, message: TransferRequest, now: float) -> list[Action]:
        """What to do for a request that is known, and whose new pair is not the current one any more."""
        if message.stage is TransferStage.MOVE and message.stage not in self._replies and self._request is None:
            self._replies[message.stage] = _all(message, Obstacle.OVERTAKEN)
        return self.requested(message, (), (), now, willing=True, yielding=False)

    def requested(
        self,
        message: TransferRequest,
        led: Iterable[Pair],
        pairs: Iterable[Pair],
        now: float,
        *,
        willing: bool,
        yielding: bool,
    ) -> list[Action]:
        """What to do for a request whose addresses were found right.

        `led`: the pairs that the peer leads; `pairs`: all that there are; `willing`: the configuration lets sockets
        move; `yielding`: a transfer that we lead goes on.
        """
        old, new = seen_from_here(message.old), seen_from_here(message.new)
        if message.stage is TransferStage.FINISH:
            return self._finish(message, [pair for pair in led if willing], new, now)
        if message.transfer in self._overtaken:
            return []
        if message.transfer == self._transfer and message.stage in self._replies:
            return [_reply(message, self._replies[message.stage])]
        if self._request is not None:
            return []  # under way; it will ask again
        if message.stage is not TransferStage.END:
            if not willing:
                return [_reply(message, _all(message, Obstacle.CONFIGURED))]
            if yielding or (self._holding and message.transfer != self._transfer):
                return [_reply(message, _all(message, Obstacle.BUSY))]
        if message.transfer != self._transfer:
            if message.stage is not TransferStage.PREPARE:
                return [_reply(message, _all(message, Obstacle.BUSY))]
            if self._allowance.is_used_up(now):
                return [_reply(message, _all(message, Obstacle.BUSY))]
            self._begin(message.transfer)
        self._request, self._old = message, old
        keys = tuple(Key.of(entry, ours=False) for entry in message.connections)
        elsewhere = tuple(pair for pair in pairs if pair not in (old, new))
        match message.stage:
            case TransferStage.PREPARE:
                self._agreed = message.sequence, old, new
                self._allowance.begin(now)  # those that have moved are stopped for a moment, to tell their numbers
                return [InspectSockets(message.transfer, old, new, keys, elsewhere)]
            case TransferStage.MOVE:
                self._holding = True
                self._allowance.begin(now)
                numbers = tuple((Key.of(entry, ours=False), entry.number) for entry in message.connections)
                return [MoveSockets(message.transfer, old, new, numbers, elsewhere)]
            case _:
                back = tuple(
                    (Key.of(entry, ours=False), entry.number)
                    for entry in message.connections
                    if entry.obstacle is not Obstacle.NONE
                )
                if back:
                    self._allowance.begin(now)
                doubtful = tuple(sorted(self._moved - set(keys)))
                arrived = tuple(key for key in keys if key not in dict(back))
                return [LetGo(message.transfer, old, new, keys, back, doubtful, arrived, elsewhere)]

    # --- what came of it ----------------------------------------------------------------------------------------

    def inspected(self, event: SocketsInspected, now: float) -> list[Action]:
        if (event.transfer, TransferStage.PREPARE) == self._outstanding:
            self._allowance.end(now, nobody_stopped=not event.numbers)
        return self._answer(event.transfer, TransferStage.PREPARE, event.kept, dict(event.numbers))

    def moved(self, event: SocketsMoved) -> list[Action]:
        if (event.transfer, TransferStage.MOVE) == self._outstanding and self._old is not None:
            self._moved = {key for key, _ in event.numbers}
            self.tally.move(self._old, self._moved)
        return self._answer(event.transfer, TransferStage.MOVE, event.kept, dict(event.numbers))

    def let_go(self, event: SocketsLetGo, now: float) -> list[Action]:
        if event.transfer == self._transfer:
            self._run_on(now)
        return self._answer(event.transfer, TransferStage.END, event.kept)

    def datagrams_moved(self, event: DatagramSocketsMoved, now: float) -> list[Action]:
        self._datagrams.discard(event.old)
        return self._finished(event.new, now)

    def expired(self, event: TransferExpired, now: float) -> list[Action]:
        """The programs run again. That the sockets have moved is still true, and the leader may still end it."""
        if event.transfer == self._transfer:
            self._run_on(now)
        return []

    def failed(self, event: TransferFailed, now: float) -> list[Action]:
        """A repeated request gets the same answer, or the leader would not know what to believe."""
        if event.transfer != self._transfer or self._request is None:
            return []
        self._run_on(now)
        request, self._request = self._request, None
        self._replies[request.stage] = _all(request, Obstacle.FAILED)
        return [_reply(request, self._replies[request.stage])]

    # --- inside -------------------------------------------------------------------------------------------------

    def _begin(self, transfer: int) -> None:
        if self._transfer is not None:
            self._overtaken.append(self._transfer)
        self._transfer = transfer
        self._replies.clear()
        self._moved.clear()

    def _finish(self, message: TransferRequest, led: list[Pair], new: Pair, now: float) -> list[Action]:
        """The leader lets go of the old addresses once this is answered: not before UDP sockets here are off them.

        Carried out once for a message that comes more than once.
        """
        self._farewell = message
        if self._datagrams:
            return []  # under way
        if self.finished == new and now < self._finished_at + FAREWELL_PAUSE:
            return self._finished(new, now)
        self._datagrams = set(led)
        return [*(MoveDatagramSockets(pair, new) for pair in led), *self._finished(new, now)]

    def _finished(self, new: Pair, now: float) -> list[Action]:
        if self._farewell is None or self._datagrams:
            return []
        message, self._farewell = self._farewell, None
        self.finished = new
        self._finished_at = now
        return [_reply(message, ())]

    def _run_on(self, now: float) -> None:
        self._holding = False
        self._allowance.end(now)

    @property
    def _outstanding(self) -> tuple[int, TransferStage] | None:
        return None if self._request is None else (self._request.transfer, self._request.stage)

    def _answer(
        self, transfer: int, stage: TransferStage, kept: Iterable[Kept], numbers: Mapping[Key, int] = NO_NUMBERS
    ) -> list[Action]:
        if (transfer, stage) != self._outstanding:
            return []
        request, self._request = self._request, None
        assert request is not None
        assert self._old is not None
        kept = tuple(kept)
        obstacles = {entry.key: entry for entry in kept}
        self.tally.keep(self._old, kept)
        connections = []
        for entry in request.connections:
            key = Key.of(entry, ours=False)
            obstacle = obstacles[key].obstacle if key in obstacles else Obstacle.NONE
            if stage is TransferStage.PREPARE and key in numbers:
                obstacle = Obstacle.MOVED
            elif stage is TransferStage.MOVE and key not in numbers and obstacle is Obstacle.NONE:
                obstacle = Obstacle.FAILED
            connections.append(_ours(entry, obstacle, numbers.get(key, 0)))
        self._replies[stage] = tuple(connections)
        return [_reply(request, tuple(connections))]


def seen_from_here(ends: tuple[IPAddress, IPAddress]) -> Pair:
    """The sender's address pair, as seen from here."""
    sender, receiver = ends
    return Pair(receiver, sender)


def _ours(entry: Connection, obstacle: Obstacle, number: int = 0) -> Connection:
    """The peer's entry, as we send it: ports as this host sees them."""
    return replace(entry, port=entry.remote_port, remote_port=entry.port, obstacle=obstacle, number=number)


def _all(message: TransferRequest, obstacle: Obstacle) -> tuple[Connection, ...]:
    return tuple(_ours(entry, obstacle) for entry in message.connections)


def _reply(message: TransferRequest, connections: tuple[Connection, ...]) -> Send:
    return Send(TransferReply(message.sequence, message.handover, message.transfer, message.stage, connections))
