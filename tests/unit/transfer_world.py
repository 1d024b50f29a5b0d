"""Two hosts that move sockets between them: the machines are real, network, programs and kernel are played.

The network loses, doubles and delays, now and then for long; orders take time; programs are stopped for HOLD at most;
controllers crash and start anew with nothing but what the sockets say. Everything comes from one seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from swanroam.protocol.binding import Binding
from swanroam.protocol.codec import decode, encode
from swanroam.protocol.events import Action, Send
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress, Obstacle, TransferReply, TransferRequest, Transport
from swanroam.protocol.retransmission import Retransmission
from swanroam.protocol.transfer import (
    DatagramSocketsMoved,
    FindSockets,
    InspectSockets,
    Kept,
    Key,
    LetGo,
    MoveDatagramSockets,
    MoveSockets,
    RebuildSockets,
    SocketsFound,
    SocketsInspected,
    SocketsLetGo,
    SocketsMoved,
    SocketsStopped,
    StopSockets,
    TransferEvent,
    TransferExpired,
    TransferFailed,
    UnlockSockets,
)
from swanroam.protocol.transfers import Transfers
from unit.driver import A, B, P

HOLD = 1.0
HANDOVER = bytes(8)
LATEST = 10.0
"""Seconds: the oldest message that still arrives."""


@dataclass(slots=True)
class Socket:
    """One end of a connection."""

    pair: Pair
    number: int
    obstacle: Obstacle = Obstacle.NONE
    """Why it can't be moved, as is found out beforehand; BOUND shows only when it is tried."""
    refuses: bool = False
    """Its program cannot be stopped now, which shows only when it is tried."""
    stopped_since: float | None = None
    locked: set[Pair] = field(default_factory=set)
    longest_stop: float = 0.0


class End:
    """One host: its bindings, sockets, and controller."""

    def __init__(self, world: World, name: str, own: Binding, peer: Binding) -> None:
        self.world = world
        self.name = name
        self.own, self.peer = own, peer
        self.sockets: dict[Key, Socket] = {}
        self.other: End
        self.held: dict[int, list[Key]] = {}
        self.willing = True
        self.runs = 0
        self.datagram_moves = 0
        self.orders: Counter[type] = Counter()
        self.sequence = 1
        """Of its last announcement."""
        self.heard = 1
        """The peer's, as far as it has come here."""
        self.proven = True
        """Its current address is, to the peer."""
        self.targets: dict[int, Pair] = {}
        self.failing: frozenset[type] = frozenset()
        """Orders that the mover never carries out."""
        self.datagrams_take = 0.0
        self.start()

    def start(self) -> None:
        """A controller that knows nothing of an earlier one. What that held is let go where it stands."""
        self.runs += 1
        for transfer in list(self.held):
            self._expire(transfer, tell=False)
        world = self.world
        self.transfers = Transfers(
            willing=self.willing,
            stopped_share=0.1,
            exchange=Retransmission(0.1, 5.0, world.random.random),
            token=world.random.randbytes,
            jitter=world.random.random,
        )
        world.after(0, self.look)

    # --- the machine --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """What the peer's machine does after every event."""
        now = self.world.now
        actions = self.transfers.advance(
            self.own, self.peer, ready=self.proven, sequence=self.sequence, handover=HANDOVER, now=now
        )
        self.carry_out(actions)
        due = min((time for time in self.transfers.deadlines() if time > now), default=None)
        if due is not None:
            run = self.runs
            self.world.at(due, lambda: self.look() if run == self.runs else None)

    def feed(self, event: TransferEvent | None, run: int) -> None:
        if event is not None and run == self.runs:
            self.carry_out(self.transfers.feed(event, self.world.now))
            self.look()

    def receive(self, datagram: bytes, run: int) -> None:
        if run != self.runs:
            return  # to a socket that was closed
        message = decode(datagram)
        if isinstance(message, TransferRequest):
            newest = message.sequence == self.heard
            now = self.world.now
            actions = self.transfers.requested(message, self.own, self.peer, now, answerable=True, newest=newest)
            self.carry_out(actions)
        else:
            assert isinstance(message, TransferReply)
            self.carry_out(self.transfers.replied(message, self.world.now))
        self.look()

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.world.deliver(self.other, encode(action.message))
            elif not hasattr(action, "fact"):
                takes = self.datagrams_take if isinstance(action, MoveDatagramSockets) else 0.0
                self.world.after(takes + self.world.random.uniform(0, 0.05), partial(self.work, action, self.runs))

    # --- the host -----------------------------------------------------------------------------------------------

    def work(self, order: Action, run: int) -> None:
        if run != self.runs:
            return
        self.orders[type(order)] += 1
        dies = self.world.random.random() < self.world.mover_deaths or type(order) in self.failing
        if dies and hasattr(order, "transfer"):
            for transfer in list(self.held):
                self._expire(transfer, tell=True)
            self.feed(TransferFailed(order.transfer, "the mover has died"), run)
            return
        self.feed(self._do(order), run)

    def _do(self, order: Action) -> TransferEvent | None:
        match order:
            case FindSockets(old, new, settled, apart):
                sockets = [(key, socket) for key, socket in self.sockets.items() if key not in settled]
                ahead = frozenset(key for key, socket in sockets if socket.pair == new and old in socket.locked)
                here = [key for key, socket in sockets if socket.pair == old or key in ahead]
                if apart:
                    ahead = frozenset()
                    here = [key for key, socket in sockets if socket.pair == old and socket.locked.intersection(apart)]
                kept = self._hindered(here)
                hindered = {entry.key for entry in kept}
                return SocketsFound(old, new, tuple(key for key in here if key not in hindered), kept, ahead)
            case InspectSockets(transfer, old, new, keys, elsewhere):
                there = [key for key in keys if key in self.sockets and self.sockets[key].pair == new]
                kept = self._hindered([key for key in keys if key not in there])
                hindered = {entry.key for entry in kept}
                kept += self._absent([key for key in keys if key not in there and key not in hindered], old, elsewhere)
                return SocketsInspected(transfer, kept, tuple((key, self.sockets[key].number) for key in there))
            case StopSockets(transfer, old, new, keys, ahead):
                return SocketsStopped(transfer, *self._stop(transfer, old, new, keys, ahead=ahead))
            case RebuildSockets(transfer, numbers):
                if transfer not in self.held:
                    return TransferFailed(transfer, "it has ended")
                return SocketsMoved(transfer, *self._rebuild(transfer, dict(numbers), leads=True))
            case MoveSockets(transfer, old, new, numbers, elsewhere):
                _, kept = self._stop(transfer, old, new, tuple(key for key, _ in numbers), elsewhere)
                moved, more = self._rebuild(transfer, dict(numbers), leads=False)
                return SocketsMoved(transfer, moved, (*kept, *more))
            case LetGo():
                return self._let_go(order)
            case UnlockSockets(old, new, keys, elsewhere):
                for key in keys:
                    self.sockets[key].locked -= {old, new, *elsewhere}
            case MoveDatagramSockets(old, new):
                self._needs_the_old_address()
                self.datagram_moves += 1
                return DatagramSocketsMoved(old, new)
        return None

    def _hindered(self, keys: tuple[Key, ...] | list[Key]) -> tuple[Kept, ...]:
        found = []
        for key in keys:
            socket = self.sockets.get(key)
            obstacle = Obstacle.NOT_FOUND if socket is None else socket.obstacle
            if obstacle not in (Obstacle.NONE, Obstacle.BOUND):
                found.append(Kept(key, obstacle))
        return tuple(found)

    def _absent(self, keys: Iterable[Key], old: Pair, elsewhere: tuple[Pair, ...]) -> tuple[Kept, ...]:
        """Of those that are here, the ones that are not where they are looked for."""
        return tuple(Kept(key, Obstacle.NOT_FOUND) for key in keys if self.sockets[key].pair not in (old, *elsewhere))

    def _stop(
        self,
        transfer: int,
        old: Pair,
        new: Pair,
        keys: tuple[Key, ...],
        elsewhere: tuple[Pair, ...] = (),
        ahead: frozenset[Key] = frozenset(),
    ) -> tuple[tuple[tuple[Key, int], ...], tuple[Kept, ...]]:
        kept = list(self._hindered(keys))
        present = set(keys) - {entry.key for entry in kept}
        kept += self._absent(present - ahead, old, elsewhere) + self._absent(present & ahead, new, ())
        kept += [Kept(key, Obstacle.OWNER) for key in present if self.sockets[key].refuses]
        hindered = {entry.key for entry in kept}
        stopped = [key for key in keys if key not in hindered]
        self._needs_the_old_address()
        for key in stopped:
            self.sockets[key].stopped_since = self.world.now
            self.sockets[key].locked |= {old if key in ahead else self.sockets[key].pair, new}
        self.held[transfer] = stopped
        self.targets[transfer] = new
        self.world.after(HOLD, lambda: self._expire(transfer, tell=True))
        return tuple((key, self.sockets[key].number) for key in sorted(stopped)), tuple(kept)

    def _rebuild(
        self, transfer: int, numbers: dict[Key, int], *, leads: bool
    ) -> tuple[tuple[tuple[Key, int], ...], tuple[Kept, ...]]:
        moved, kept = [], []
        target = self.targets[transfer]
        self._needs_the_old_address()
        for key in list(self.held.get(transfer, ())):
            socket = self.sockets[key]
            if socket.pair == target:  # it is there already, and only its number was needed
                self._free(key, doubtful=True)
                self.held[transfer].remove(key)
                if key in numbers:
                    moved.append((key, socket.number))
                else:
                    kept.append(Kept(key, Obstacle.CHANGED))
                continue
            if key not in numbers or socket.obstacle is Obstacle.BOUND:
                kept.append(Kept(key, Obstacle.CHANGED if key not in numbers else Obstacle.BOUND))
                if key not in numbers:
                    self._free(key, doubtful=True)
                    self.held[transfer].remove(key)
                continue
            if key.transport is Transport.TCP:
                assert numbers[key] == self.other.sockets[key_of_other(key)].number, "not the peer's number"
            socket.pair = target
            if leads and key.transport is Transport.TCP:
                other = self.other.sockets[key_of_other(key)]
                assert at_one_pair(socket, other), f"{key}: taken to the new pair, where its peer is not"
            self.world.check()
            moved.append((key, socket.number))
        return tuple(sorted(moved)), tuple(kept)

    def _let_go(self, order: LetGo) -> SocketsLetGo:
        kept = []
        self._needs_the_old_address()
        for key in self.held.pop(order.transfer, ()):
            self._free(key, doubtful=key in order.doubtful)
        for key, _ in order.back:
            socket = self.sockets.get(key)
            if socket is not None and socket.pair == order.new:
                if self.world.random.random() < self.world.failed_returns:
                    kept.append(Kept(key, Obstacle.CHANGED))
                    continue
                socket.locked |= {order.new}
                socket.pair = order.old
                self.world.check()
            elif socket is None or socket.pair != order.old:
                kept.append(Kept(key, Obstacle.NOT_FOUND))
        away = {entry.key for entry in kept}
        for key in order.keys:
            if key in self.sockets and key not in order.doubtful and key not in away:
                arrived = order.elsewhere if key in order.arrived else ()
                self.sockets[key].locked -= {order.old, order.new, *arrived}
        return SocketsLetGo(order.transfer, tuple(kept))

    def _expire(self, transfer: int, *, tell: bool) -> None:
        keys = self.held.pop(transfer, None)
        if keys is None:
            return
        self._needs_the_old_address()
        for key in keys:
            self._free(key, doubtful=True)
        if tell:
            self.feed(TransferExpired(transfer), self.runs)

    def _needs_the_old_address(self) -> None:
        assert not self.transfers.settled(self.world.now), "a socket could not be put back on its old address"

    def _free(self, key: Key, *, doubtful: bool) -> None:
        socket = self.sockets[key]
        assert socket.stopped_since is not None
        socket.longest_stop = max(socket.longest_stop, self.world.now - socket.stopped_since)
        socket.stopped_since = None
        socket.locked = socket.locked - {socket.pair}  # where it is not, what is under way may still come


def key_of_other(key: Key) -> Key:
    return Key(key.transport, key.remote_port, key.port)


class World:
    """Clock, network and both ends. The mobile host has come from A to B, and leads."""

    def __init__(
        self, seed: int, *, loss: float = 0.0, delay: float = 0.01, mover_deaths: float = 0.0, late: float = 0.0
    ) -> None:
        """`late`: the part of the messages of which a copy comes much later."""
        self.random = random.Random(seed)
        self.loss, self.delay, self.mover_deaths, self.late = loss, delay, mover_deaths, late
        self.failed_returns = 0.0
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._connections: list[tuple[Key, Socket, Socket]] = []
        """Of TCP, both ends."""
        mobile, correspondent = Binding(B, (A,)), Binding(P)
        self.leader = End(self, "leader", mobile, correspondent)
        self.follower = End(self, "follower", correspondent, mobile)
        self.leader.other, self.follower.other = self.follower, self.leader

    @property
    def sockets(self) -> list[Socket]:
        """Of both ends."""
        return [*self.leader.sockets.values(), *self.follower.sockets.values()]

    def connect(self, count: int, transport: Transport = Transport.TCP) -> list[Key]:
        """Connections from A; their keys as the leader sees them."""
        keys = []
        for _ in range(count):
            key = Key(transport, 40000 + len(self.leader.sockets), 80)
            number = self.random.randrange(2**32)
            ours = self.leader.sockets[key] = Socket(Pair(A, P), number)
            theirs = self.follower.sockets[key_of_other(key)] = Socket(Pair(P, A), number ^ 1)
            if transport is Transport.TCP:
                self._connections.append((key, ours, theirs))
            keys.append(key)
        return keys

    def move(self, address: IPAddress, end: End | None = None, *, heard_after: float = 0.0) -> None:
        """A host, by default the mobile one, once more; the other hears of it, with the proof, after some seconds."""
        end = end or self.leader
        end.own = end.own.moved_to(address)
        end.sequence += 1
        end.proven = not heard_after
        if heard_after:
            end.look()
            self.after(heard_after, partial(self._hear, end, end.own, end.sequence))
        else:
            self._hear(end, end.own, end.sequence)

    def _hear(self, end: End, binding: Binding, sequence: int) -> None:
        """The other host does, if there was nothing newer."""
        if sequence != end.sequence:
            return
        end.other.peer, end.other.heard, end.proven = binding, sequence, True
        end.other.look()
        end.look()

    def at(self, time: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time, next(self._order), what))

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self.at(self.now + seconds, what)

    def deliver(self, to: End, datagram: bytes) -> None:
        for _ in range(self.random.choice([1, 1, 1, 2])):
            if self.random.random() >= self.loss:
                self.after(self.delay * self.random.uniform(1, 3), partial(to.receive, datagram, to.runs))
        if self.random.random() < self.late:  # not to another run: the sequence has grown by then
            self.after(self.random.uniform(0, LATEST), partial(to.receive, datagram, to.runs))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self._queue)
            what()
            self.check()
        self.now = end

    def place(self, key: Key) -> tuple[bool, bool]:
        """Whether the leader's, and the follower's, socket is at the new pair."""
        new = Pair(self.leader.own.current, self.follower.own.current)
        return self.leader.sockets[key].pair == new, self.follower.sockets[key_of_other(key)].pair == mirrored(new)

    def together(self, key: Key) -> bool:
        """Whether both ends are at one pair."""
        return at_one_pair(self.leader.sockets[key], self.follower.sockets[key_of_other(key)])

    def check(self) -> None:
        """What holds at every moment: the ends are at one pair, or each is locked where the other is."""
        for key, ours, theirs in self._connections:
            if at_one_pair(ours, theirs):
                continue
            for one, other in ((ours, theirs), (theirs, ours)):
                assert mirrored(one.pair) in other.locked, f"{key}: what comes for {one.pair} would get a reset"


def at_one_pair(one: Socket, other: Socket) -> bool:
    """Asked at every event for every connection, so without making a mirrored pair."""
    return one.pair.local == other.pair.remote and one.pair.remote == other.pair.local


def mirrored(pair: Pair) -> Pair:
    """As the other host sees it."""
    return Pair(pair.remote, pair.local)
