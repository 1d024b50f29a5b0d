"""Moving sockets between this host and one peer: both roles, and what lies between them and the peer's machine."""

from __future__ import annotations

from collections.abc import Callable

from swanroam.protocol.binding import Binding
from swanroam.protocol.events import Action, Fact, Report
from swanroam.protocol.follower import Follower, seen_from_here
from swanroam.protocol.host_state import Pair
from swanroam.protocol.leader import Leader
from swanroam.protocol.led_pairs import all_pairs, led_pairs
from swanroam.protocol.messages import TransferReply, TransferRequest, TransferStage
from swanroam.protocol.retransmission import Retransmission
from swanroam.protocol.settings import PeerSettings
from swanroam.protocol.transfer import (
    DatagramSocketsMoved,
    SocketsFound,
    SocketsInspected,
    SocketsLetGo,
    SocketsMoved,
    SocketsStopped,
    Tally,
    TransferEvent,
    TransferExpired,
    TransferFailed,
)

SETTLING = 5.0
"""Seconds after a transfer in which a socket may still have to be put back: by who comes after a mover that died."""


class Transfers:
    """What this host does about sockets on old addresses, its own or the peer's. `willing`: they may move."""

    def __init__(
        self,
        *,
        willing: bool,
        stopped_share: float,
        exchange: Retransmission,
        token: Callable[[int], bytes],
        jitter: Callable[[], float],
    ) -> None:
        self.willing = willing
        self.tally = Tally()
        self._leader = Leader(exchange, token, jitter, self.tally)
        self._follower = Follower(self.tally, stopped_share)
        self._settled = 0.0
        self._moved = False
        """Sockets were being moved when it was last looked."""

    def reconfigure(self, settings: PeerSettings, now: float) -> None:
        """Other settings. Not to be called with another `transport` while `busy`."""
        self.willing = settings.transport
        self._leader.reconfigure(settings.mobile.first_retransmit, settings.mobile.ceiling)
        self._follower.reconfigure(settings.stopped_share, now)

    @property
    def busy(self) -> bool:
        """Sockets are being moved, so they cannot be counted."""
        return self._leader.busy or self._follower.busy

    def settled(self, now: float) -> bool:
        """No socket is being moved, and none has to be bound to an old address to be put back."""
        return not self._moving and now >= self._settled

    @property
    def _moving(self) -> bool:
        return self._leader.holding or self._follower.busy

    def led_through(self) -> bool:
        """This host has gone over all sockets that it leads to the current pair."""
        return self._leader.rounds > 0

    def followed_through(self, pair: Pair) -> bool:
        """The peer has gone over all that it leads to this pair."""
        return self._follower.finished == pair

    def peer_started(self) -> None:
        """Its controller is a new one."""
        self._leader.peer_started()

    def forget(self, now: float) -> None:
        """The peer is gone."""
        self._leader.forget()
        self._follower.forget(now)

    def advance(
        self, own: Binding, peer: Binding, *, ready: bool, sequence: int, handover: bytes, now: float
    ) -> list[Action]:
        """What to do now. `ready`: the current pair is proven and has filters, and nobody counts sockets."""
        self._follower.advance(Pair(own.current, peer.current))
        actions: list[Action] = []
        if self.willing:
            self._leader.yielding = self._follower.holding
            actions = self._leader.advance(own, peer, ready=ready, sequence=sequence, handover=handover, now=now)
        if self._moving or self._moved:
            self._settled = now + SETTLING
        self._moved = self._moving
        return actions

    def deadlines(self) -> list[float]:
        """Times at which `advance` may have something to do."""
        return [self._settled, *(self._leader.deadlines() if self.willing else [])]

    def requested(
        self, message: TransferRequest, own: Binding, peer: Binding, now: float, *, answerable: bool, newest: bool
    ) -> list[Action]:
        """A request of the peer. `answerable`: its announcement is in force, and proven; `newest`: that is the one to
        which the request belongs.

        It may name connections between addresses of the two hosts, and take them to the current pair, nowhere else.
        What has begun is brought to its end, whatever the current pair is by then.
        """
        old, new = seen_from_here(message.old), seen_from_here(message.new)
        current, pairs, ours = Pair(own.current, peer.current), all_pairs(own, peer), led_pairs(own, peer)
        movable = [pair for pair in pairs if pair != current]
        led = [pair for pair in movable if pair not in ours]
        known = self._follower.knows(message) and {old, new} <= set(pairs)
        if known and not (answerable and new == current):
            return self._follower.overtaken(message, now)
        if not (known or (answerable and newest)):
            return [Report(Fact.UNEXPECTED_MESSAGE, "a transfer request that is not about the announced address")]
        if new != current or (message.stage is not TransferStage.FINISH and old not in movable):
            return [Report(Fact.UNEXPECTED_MESSAGE, f"a transfer request from {old} to {new}, which is not to be made")]
        return self._follower.requested(message, led, pairs, now, willing=self.willing, yielding=self._leader.engaged)

    def replied(self, message: TransferReply, now: float) -> list[Action]:
        actions = self._leader.replied(message, now)
        if self._leader.holding:
            self._follower.set_aside()
        return actions

    def feed(self, event: TransferEvent, now: float) -> list[Action]:
        """What came of an order. Each role knows its own by the transfer's number."""
        match event:
            case SocketsFound():
                return self._leader.found(event, now)
            case SocketsInspected():
                return self._follower.inspected(event, now)
            case SocketsStopped():
                return self._leader.stopped(event, now)
            case SocketsMoved():
                return self._leader.moved(event, now) or self._follower.moved(event)
            case SocketsLetGo():
                return self._leader.let_go(event, now) + self._follower.let_go(event, now)
            case DatagramSocketsMoved():
                return self._follower.datagrams_moved(event, now)
            case TransferExpired():
                return self._leader.expired(event, now) + self._follower.expired(event, now)
            case TransferFailed():
                return self._leader.expired(event, now) + self._follower.failed(event, now)
