"""Moving the sockets to the new address: the role of the host that leads.

Theory of operation
===================

A TCP connection is moved on both hosts at one moment in which neither may answer the other: while one end has the new
addresses and the other has not, any packet of it would be answered by a reset. So both hosts lock the connection's old
and new addresses, and stop the programs that have it. What each needs of the other is one number: what has been
received, so that the rest can be sent again.

    leader                                            follower
    finds its sockets on an old pair
    TRANSFER REQUEST {prepare, connections} ───────►  could they move?                    (nothing is changed yet)
                            ◄────────── TRANSFER REPLY {prepare, obstacles}
    locks, stops the programs, reads the numbers
    TRANSFER REQUEST {move, numbers} ──────────────►  locks, stops, reads its numbers, takes its sockets to the new pair
                            ◄────────── TRANSFER REPLY {move, numbers}                    and holds them
    takes its sockets to the new pair, lets them go
    TRANSFER REQUEST {end} ────────────────────────►  lets its sockets go; those that the leader could not move
                            ◄────────── TRANSFER REPLY {end}                              return to the old pair first

The follower goes first, so this holds always: *a socket of the leader's is taken to the new pair only when its peer is
there.* The hosts hold programs for a limited time only; when it is over, a socket stays where it is at that moment. If
messages are lost the follower's may then be at the new pair and the leader's at the old one, locked against each
other: nothing flows and nothing is lost. (A leader that has moved its own still tells the end.) The next attempt finds
it so: it begins anew by what the sockets themselves say, and what is at the new pair already is only asked for its
number. So nothing has to be remembered over a crash of either side. When the address has changed once more meanwhile,
the follower finds its socket at the pair that was the new one, and takes it on from there: the number tells that it is
the same connection. When it is the leader's own old address that has returned, its socket is at the new pair before
the follower's. The lock that is left at the other pair tells: so it is named as well, gives its number, stays where it
is, and the follower's comes. When both hosts have moved, the two ends may stand at pairs of which neither, or each host
one, is led by who has a socket there. So the follower looks everywhere; and what is locked at any other pair is named
by whoever has it, whether or not the pair is his to lead.

When the address changes in the middle of a transfer, what has begun is brought to its end, so that nobody is held
longer than need be: requests and replies belong to the sequence at which the peer has agreed to them (`Batch.agreed`),
and count as long as both sides know the transfer. What has not moved by then stays (OVERTAKEN); the next round begins
as soon as the next pair is ready.

A *round* goes over all old pairs, in transfers of at most MAX_CONNECTIONS. Rounds are repeated, at growing intervals,
as long as there are old pairs: what could not move may be able to later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from swanroam.protocol.batch import Batch, farewell, obstacle_of, obstacles
from swanroam.protocol.binding import Binding
from swanroam.protocol.events import Action, Send
from swanroam.protocol.host_state import Pair
from swanroam.protocol.led_pairs import all_pairs, led_pairs
from swanroam.protocol.messages import (
    OBSTACLES_BEFORE,
    OBSTACLES_FOR_GOOD,
    Connection,
    Obstacle,
    TransferReply,
    TransferRequest,
)
from swanroam.protocol.pace import Pace
from swanroam.protocol.phase import HOLDING, WAITING, Phase
from swanroam.protocol.retransmission import Retransmission
from swanroam.protocol.transfer import (
    FindSockets,
    Kept,
    Key,
    RebuildSockets,
    SocketsFound,
    SocketsLetGo,
    SocketsMoved,
    SocketsStopped,
    Tally,
    TransferExpired,
    TransferFailed,
)

PATIENCE = 5.0
"""Seconds in which the peer must have answered a request that holds nobody up."""
FAREWELLS = 6
"""How often the end of a round is told. The follower answers when it has moved UDP sockets, which takes a moment."""


class Leader:
    """Moves this host's sockets from old pairs to the current one."""

    def __init__(
        self, exchange: Retransmission, token: Callable[[int], bytes], jitter: Callable[[], float], tally: Tally
    ) -> None:
        self.tally = tally
        self.rounds = 0
        """Finished since the current pair is what it is."""
        self.yielding = False
        """Programs of this host are stopped for a transfer that the peer leads: ours has to wait."""
        self._exchange = exchange
        self._token = token
        self._phase = Phase.IDLE
        self._new: Pair | None = None
        self._pace = Pace(jitter)
        self._pairs: deque[Pair] = deque()
        self._batches: deque[Batch] = deque()
        self._batch: Batch | None = None
        self._began = 0.0
        self._every: list[Pair] = []
        self._others: tuple[Pair, ...] = ()
        """Pairs that the peer leads."""
        self._asked = 0
        """The sequence of the request that was sent last."""
        self._ready = False

    def reconfigure(self, first: float, ceiling: float) -> None:
        """Other pauses between retransmissions."""
        self._exchange.reconfigure(first, ceiling)

    @property
    def busy(self) -> bool:
        """Sockets are being looked for or moved, here or by the follower: no address can be let go now."""
        return self._phase is not Phase.IDLE

    @property
    def holding(self) -> bool:
        """Programs of this host are stopped."""
        return self._phase in HOLDING

    @property
    def engaged(self) -> bool:
        """Programs have been stopped, and the follower has not told the end."""
        return self.holding or self._phase is Phase.ENDING

    def forget(self) -> None:
        """The peer is gone. What is stopped is let go by the host's own limit."""
        self._phase = Phase.IDLE
        self._batch = self._new = None
        self._pairs.clear()
        self._batches.clear()
        self._exchange.stop()
        self._pace.at_once(0.0)

    def peer_started(self) -> None:
        """Its controller is a new one, and may have another configuration."""
        self.tally.kept = {
            entry: kept for entry, kept in self.tally.kept.items() if kept.obstacle is not Obstacle.CONFIGURED
        }

    # --- what is missing --------------------------------------------------------------------------------------

    def advance(
        self, own: Binding, peer: Binding, *, ready: bool, sequence: int, handover: bytes, now: float
    ) -> list[Action]:
        """What to do now. `ready`: the new pair is proven and has filters, and nobody counts sockets."""
        new = Pair(own.current, peer.current)
        actions = self._impatient(now)  # before all: what is given up may have been for another pair
        if self._new != new and not self.holding and self._phase is not Phase.ENDING:
            self._restart(new, now)
        pairs = led_pairs(own, peer)
        if self._phase is Phase.IDLE and pairs and ready and self._pace.is_due(now):
            self._pairs = deque(pairs)
            self._every = all_pairs(own, peer)
            self._others = tuple(pair for pair in self._every if pair not in (new, *pairs))
            self._pairs.extend(self._others)
            self._pace.begun()
            self.tally.kept = {entry: kept for entry, kept in self.tally.kept.items() if entry[0] in self._pairs}
            actions += self._next(now)
        elif self._phase is Phase.PREPARING and not ready:
            self._restart(new, now)
        if self._phase in WAITING and ready and not self._ready:
            self._exchange.hasten(now)  # what was sent before may have found no way
        self._ready = ready
        if self._phase in WAITING and self._exchange.is_due(now):
            self._exchange.sent(now)
            request = self._request(sequence, handover)
            self._asked = request.sequence
            actions.append(Send(request, self._exchange.transmissions))
        return actions

    def deadlines(self) -> list[float]:
        """Times at which `advance` may have something to do."""
        times = [self._pace.due] if self._phase is Phase.IDLE and self._pace.due is not None else []
        if self._phase in WAITING and self._exchange.due is not None:
            times.append(self._exchange.due)
        if self._phase in (Phase.PREPARING, Phase.ENDING):
            times.append(self._began + PATIENCE)
        return times

    # --- what came in -----------------------------------------------------------------------------------------

    def found(self, event: SocketsFound, now: float) -> list[Action]:
        if self._phase is not Phase.FINDING or (event.old, event.new) != (self._pairs[0], self._new):
            return []
        self._pairs.popleft()
        there = {*event.movable, *(kept.key for kept in event.kept), *self._settled(event.old)}
        self.tally.kept = {
            (pair, key): kept for (pair, key), kept in self.tally.kept.items() if pair != event.old or key in there
        }
        self.tally.keep(event.old, event.kept)
        movable = sorted(event.movable)
        size = self._pace.size
        for start in range(0, len(movable), size):
            keys = tuple(movable[start : start + size])
            elsewhere = tuple(pair for pair in self._every if pair not in (event.old, event.new))
            self._batches.append(Batch(event.old, event.new, keys, event.ahead.intersection(keys), elsewhere))
        return self._next(now)

    def stopped(self, event: SocketsStopped, now: float) -> list[Action]:
        batch = self._current(event.transfer, Phase.STOPPING)
        if batch is None:
            return []
        self.tally.keep(batch.old, event.kept)
        batch.own = dict(event.numbers)
        batch.theirs = {key: number for key, number in batch.there.items() if key in batch.own}
        if not batch.own:
            return self._done(now)
        if not batch.asked:
            return self._rebuild(batch)
        self._enter(Phase.MOVING, now)
        return []

    def moved(self, event: SocketsMoved, now: float) -> list[Action]:
        batch = self._current(event.transfer, Phase.REBUILDING)
        if batch is None:
            return []
        wanted = batch.theirs.keys() | batch.alone  # of the others the peer has said why
        self.tally.keep(batch.old, (entry for entry in event.kept if entry.key in wanted))
        batch.moved = {key for key, _ in event.numbers}
        self.tally.move(batch.old, batch.moved)
        if batch.moved:
            self._pace.moved()
        self._phase = Phase.LETTING_GO
        return [batch.let_go()]

    def let_go(self, event: SocketsLetGo, now: float) -> list[Action]:
        batch = self._current(event.transfer, Phase.LETTING_GO)
        if batch is None:
            return []
        self.tally.keep(batch.old, event.kept)
        if not batch.asked and not batch.theirs:
            return self._done(now)
        self._enter(Phase.ENDING, now)
        return []

    def expired(self, event: TransferExpired | TransferFailed, now: float) -> list[Action]:
        """Ours are where they were. Whether the follower's are, the next attempt finds out."""
        if self._batch is None or event.transfer != self._batch.transfer or not self.holding:
            return []
        detail = event.reason if isinstance(event, TransferFailed) else "the peer did not answer in time"
        obstacle = Obstacle.FAILED if isinstance(event, TransferFailed) else Obstacle.SILENT
        batch = self._batch
        self._pace.expired()
        if self._phase is Phase.LETTING_GO and (batch.asked or batch.theirs):
            return self._let_go_late(batch, now)
        self.tally.keep(batch.old, [Kept(key, obstacle, detail) for key in batch.own or batch.keys])
        return self._cut(now)

    def replied(self, message: TransferReply, now: float) -> list[Action]:
        if self._phase not in WAITING or (message.sequence, message.stage) != (self._asked, WAITING[self._phase]):
            return []
        if self._phase is Phase.FINISHING:
            self._rest(now)
            return []
        batch = self._batch
        if batch is None or message.transfer != batch.transfer:
            return []
        said = {Key.of(entry, ours=False): entry for entry in message.connections}
        match self._phase:
            case Phase.PREPARING:
                batch.agreed = message.sequence, message.handover
                return self._prepared(batch, said, now)
            case Phase.MOVING:
                return self._followed(batch, said, now)
            case _:
                actions = self._ended(batch, said)
                return actions + (self._cut(now) if batch.expired else self._done(now))

    # --- inside -----------------------------------------------------------------------------------------------

    def _prepared(self, batch: Batch, said: dict[Key, Connection], now: float) -> list[Action]:
        batch.there = {key: said[key].number for key in batch.keys if obstacle_of(said, key) is Obstacle.MOVED}
        batch.alone = {key for key in batch.keys if obstacle_of(said, key) is Obstacle.NOTHING_TO_DO}
        movable = (Obstacle.NONE, Obstacle.MOVED, Obstacle.NOTHING_TO_DO)
        hindered = {key for key in batch.keys if obstacle_of(said, key) not in movable}
        self.tally.keep(batch.old, obstacles(said, hindered))
        batch.keys = tuple(key for key in batch.keys if key not in hindered)
        if any(obstacle_of(said, key) is Obstacle.BUSY for key in hindered):
            self._pace.cut_short()
        if not batch.keys:
            return self._done(now)
        if self.yielding:
            self._pace.cut_short()
            return self._cut(now)
        self._exchange.stop()
        self._phase = Phase.STOPPING
        return [batch.stop()]

    def _followed(self, batch: Batch, said: dict[Key, Connection], now: float) -> list[Action]:
        asked = batch.asked
        batch.theirs |= {key: said[key].number for key in asked if obstacle_of(said, key) is Obstacle.NONE}
        batch.refused = {key for key in asked - batch.ahead if obstacle_of(said, key) in OBSTACLES_BEFORE}
        self.tally.keep(batch.old, obstacles(said, asked - batch.theirs.keys()))
        if any(obstacle_of(said, key) is Obstacle.BUSY for key in asked):
            self._pace.cut_short()
        return self._rebuild(batch)

    def _let_go_late(self, batch: Batch, now: float) -> list[Action]:
        """Nobody let go our programs in time, but where our sockets are is known: the follower need not wait."""
        batch.expired = True
        self._enter(Phase.ENDING, now)
        return [*batch.unlock(batch.moved, batch.elsewhere), *batch.unlock(batch.refused)]

    def _ended(self, batch: Batch, said: dict[Key, Connection]) -> list[Action]:
        """What has come back is in no doubt any more; what the peer could not take back will be tried again."""
        back = {key for key in batch.returning if obstacle_of(said, key) is Obstacle.NONE}
        self.tally.keep(batch.old, obstacles(said, set(batch.returning) - back))
        return [*batch.unlock(back)]

    def _rebuild(self, batch: Batch) -> list[Action]:
        self._exchange.stop()
        self._phase = Phase.REBUILDING
        alone = {key: 0 for key in batch.own if key in batch.alone}
        return [RebuildSockets(batch.transfer, tuple(sorted((batch.theirs | alone).items())))]

    def _request(self, sequence: int, handover: bytes) -> TransferRequest:
        stage = WAITING[self._phase]
        if self._batch is not None:
            return self._batch.request(stage, sequence, handover)
        assert self._new is not None
        return farewell(self._new, sequence, handover)

    def _impatient(self, now: float) -> list[Action]:
        """Gives up what the peer does not answer."""
        if self._phase is Phase.FINISHING and self._exchange.attempts >= FAREWELLS:
            self._rest(now)
        if self._phase not in (Phase.PREPARING, Phase.ENDING) or now < self._began + PATIENCE:
            return []
        batch = self._batch
        assert batch is not None
        silent = batch.keys if self._phase is Phase.PREPARING else batch.returning  # for these it is not over yet
        self.tally.keep(batch.old, [Kept(key, Obstacle.SILENT, "the peer does not answer") for key in silent])
        return self._cut(now)

    def _next(self, now: float) -> list[Action]:
        """The next transfer of the round, or the next old pair, or the end of the round."""
        if self._batches:
            self._batch = self._batches.popleft()
            self._batch.transfer = int.from_bytes(self._token(4))
            self._enter(Phase.PREPARING, now)
            return []
        self._batch = None
        if self._pairs:
            self._phase = Phase.FINDING
            old, new = self._pairs[0], self._new
            assert new is not None
            if old in self._others:  # what cannot move for good is named as well: the follower's may come to it
                return [FindSockets(old, new, frozenset(), tuple(pair for pair in self._every if pair != old))]
            return [FindSockets(old, new, self._settled(old))]
        self.rounds += 1
        self._enter(Phase.FINISHING, now)
        return []

    def _settled(self, old: Pair) -> frozenset[Key]:
        """Sockets of a pair that cannot move, now or later."""
        kept = self.tally.kept.items()
        return frozenset(key for (pair, key), entry in kept if pair == old and entry.obstacle in OBSTACLES_FOR_GOOD)

    def _done(self, now: float) -> list[Action]:
        """With the batch."""
        self._exchange.stop()
        return self._next(now)

    def _cut(self, now: float) -> list[Action]:
        """The round ends here; what is left has its chance in the next."""
        self._batches.clear()
        self._pairs.clear()
        self._batch = None
        self._rest(now)
        return []

    def _rest(self, now: float) -> None:
        self._phase = Phase.IDLE
        self._exchange.stop()
        self._pace.ended(now)

    def _restart(self, new: Pair, now: float) -> None:
        if self._new != new:
            self.tally.kept.clear()  # what could not move to another address may be able to move to this one
        self.forget()
        self.tally.moved = 0
        self._new = new
        self._pace.begin_anew(now)
        self.rounds = 0

    def _enter(self, phase: Phase, now: float) -> None:
        self._phase = phase
        self._began = now
        self._exchange.begin(now)

    def _current(self, transfer: int, phase: Phase) -> Batch | None:
        batch = self._batch
        return batch if batch is not None and batch.transfer == transfer and self._phase is phase else None
