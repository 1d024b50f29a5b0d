"""How long a peer may have programs stopped."""

from __future__ import annotations

import pytest

from swanroam.protocol.allowance import HELD_ADVANCE, Allowance
from swanroam.protocol.events import Send
from swanroam.protocol.follower import Follower
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Connection, Obstacle, TransferReply, TransferRequest, TransferStage, Transport
from swanroam.protocol.transfer import (
    DatagramSocketsMoved,
    InspectSockets,
    LetGo,
    MoveDatagramSockets,
    MoveSockets,
    SocketsInspected,
    SocketsLetGo,
    SocketsMoved,
    Tally,
)
from unit.driver import A, B, P
from unit.transfer_world import HANDOVER

OLD = Pair(P, A)
SHARE = 0.1


def held(allowance: Allowance, begin: float, seconds: float) -> None:
    allowance.begin(begin)
    allowance.end(begin + seconds)


def test_what_is_used_up_comes_back_by_its_share() -> None:
    allowance = Allowance(SHARE)
    held(allowance, 100, HELD_ADVANCE)
    end = 100 + HELD_ADVANCE
    assert allowance.is_used_up(end)
    assert not allowance.is_used_up(end + 1)
    held(allowance, end + 1, 2.0)
    assert allowance.is_used_up(end + 3)
    assert not allowance.is_used_up(end + 3 + 2 / SHARE)


def test_no_more_than_the_advance_is_saved_up() -> None:
    allowance = Allowance(SHARE)
    held(allowance, 1e6, HELD_ADVANCE * 1.2)
    assert allowance.is_used_up(1e6 + HELD_ADVANCE * 1.2)


def test_nothing_is_used_up_when_nobody_was_stopped() -> None:
    allowance = Allowance(SHARE)
    allowance.begin(0)
    allowance.end(1000, nobody_stopped=True)
    assert not allowance.is_used_up(1000)


class Tormentor:
    """A peer that has the programs of one connection stopped as much as it can, and the host that serves it."""

    def __init__(self, *, back: bool) -> None:
        self.follower = Follower(Tally(), SHARE)
        self.obstacle = Obstacle.FAILED if back else Obstacle.NONE
        self.now = 0.0
        self.stopped = 0.0
        self.answers: list[Obstacle] = []

    def torment(self, transfer: int) -> None:
        for stage in (TransferStage.PREPARE, TransferStage.MOVE, TransferStage.END):
            connection = Connection(Transport.TCP, 40000, 80, self.obstacle, 1)
            request = TransferRequest(1, HANDOVER, transfer, stage, (A, P), (B, P), (connection,))
            actions = self.follower.requested(request, [OLD], [OLD], self.now, willing=True, yielding=False)
            self.now += 0.5
            for action in actions:
                match action:
                    case InspectSockets(number, _, _, keys):
                        self.stopped += 0.5  # its socket has moved, so it must be stopped to tell its number
                        self.follower.inspected(SocketsInspected(number, (), ((keys[0], 7),)), self.now)
                    case MoveSockets(number):
                        self.stopped += 1.0
                        self.follower.moved(SocketsMoved(number, (), ()))
                    case LetGo(number):
                        self.follower.let_go(SocketsLetGo(number), self.now)
                    case _:
                        reply = getattr(action, "message", None)
                        assert isinstance(reply, TransferReply)
                        self.answers += [entry.obstacle for entry in reply.connections]


@pytest.mark.parametrize("back", [False, True])
def test_a_peer_that_never_leaves_off_has_its_share_and_no_more(*, back: bool) -> None:
    peer = Tormentor(back=back)
    for transfer in range(4000):
        peer.torment(transfer)
    assert peer.stopped > HELD_ADVANCE
    assert peer.stopped <= HELD_ADVANCE + SHARE * peer.now + 1.5
    assert Obstacle.BUSY in peer.answers


def test_the_end_of_a_round_that_comes_again_and_again_is_carried_out_once() -> None:
    """And answered each time, once it is carried out."""
    follower = Follower(Tally(), SHARE)
    request = TransferRequest(1, HANDOVER, 0, TransferStage.FINISH, (B, P), (B, P), ())
    new = Pair(P, B)

    def ask(now: float) -> list[type]:
        return [type(action) for action in follower.requested(request, [OLD], [OLD], now, willing=True, yielding=False)]

    assert ask(0.0) == [MoveDatagramSockets]
    assert ask(0.1) == []
    assert [type(action) for action in follower.datagrams_moved(DatagramSocketsMoved(OLD, new), 0.2)] == [Send]
    assert ask(0.3) == [Send]
    assert ask(1.0) == [MoveDatagramSockets]
