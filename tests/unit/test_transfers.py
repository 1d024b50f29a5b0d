"""Moving sockets: both roles together, through loss, delay, time limits and crashes of either side."""

from __future__ import annotations

import pytest

from swanroam.protocol.binding import Binding
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import MAX_CONNECTIONS, Obstacle, Transport
from swanroam.protocol.transfer import FindSockets, Key, LetGo, MoveSockets, RebuildSockets, StopSockets
from unit.driver import A, B, C, D, P, Q
from unit.transfer_world import HANDOVER, HOLD, World, key_of_other, mirrored
from unit.walks import seeds

BOTH_NEW, BOTH_OLD = (True, True), (False, False)


def test_connections_move_on_both_hosts() -> None:
    world = World(1)
    keys = world.connect(3)
    world.run(1)
    assert [world.place(key) for key in keys] == [BOTH_NEW] * 3
    assert world.leader.transfers.led_through()
    assert world.leader.transfers.tally.moved == world.follower.transfers.tally.moved == 3
    assert not world.leader.transfers.busy
    assert not world.follower.transfers.busy


def test_a_pair_that_is_current_again_is_gone_through_again() -> None:
    world = World(1)
    world.connect(1)
    world.run(1)
    pair = Pair(world.follower.own.current, world.follower.peer.current)
    follower = world.follower.transfers
    assert follower.followed_through(pair)
    there = world.follower.peer
    for peer in (Binding(A, (there.current,)), there):
        follower.advance(world.follower.own, peer, ready=False, sequence=2, handover=HANDOVER, now=world.now)
    assert not follower.followed_through(pair)


def test_many_connections_move_in_batches() -> None:
    world = World(2)
    keys = world.connect(3 * MAX_CONNECTIONS + 1)
    world.run(10)
    assert all(world.place(key) == BOTH_NEW for key in keys)


@pytest.mark.parametrize("obstacle", [Obstacle.KIND, Obstacle.OWNER, Obstacle.CONFIGURED, Obstacle.BUSY])
@pytest.mark.parametrize("where", ["leader", "follower"])
def test_what_cannot_move_stays_with_its_reason_and_holds_nobody_up(obstacle: Obstacle, where: str) -> None:
    world = World(3)
    stays, moves = world.connect(2)
    end = getattr(world, where)
    end.sockets[stays if where == "leader" else key_of_other(stays)].obstacle = obstacle
    world.run(0.7)
    assert world.place(stays) == BOTH_OLD
    assert world.place(moves) == BOTH_NEW
    kept = {key: entry.obstacle for (_, key), entry in world.leader.transfers.tally.kept.items()}
    assert kept == {stays: obstacle}
    world.run(60)
    assert max(world.leader.sockets[key].longest_stop for key in (stays, moves)) < HOLD / 2


def test_what_cannot_move_now_moves_later() -> None:
    world = World(4)
    (key,) = world.connect(1)
    world.leader.sockets[key].obstacle = Obstacle.BUSY
    world.run(5)
    assert world.place(key) == BOTH_OLD
    world.leader.sockets[key].obstacle = Obstacle.NONE
    world.run(10)
    assert world.place(key) == BOTH_NEW
    assert not world.leader.transfers.tally.kept


def test_a_bound_socket_of_the_leaders_brings_the_followers_back() -> None:
    """Only the attempt shows it, when the follower's has moved already."""
    world = World(5)
    bound, free = world.connect(2)
    world.leader.sockets[bound].obstacle = Obstacle.BOUND
    world.run(3)
    assert world.place(bound) == BOTH_OLD
    assert world.place(free) == BOTH_NEW
    assert not world.leader.sockets[bound].locked
    assert not world.follower.sockets[key_of_other(bound)].locked
    world.run(60)
    assert world.leader.sockets[bound].longest_stop < HOLD


def test_a_peer_that_keeps_its_sockets_is_asked_and_left_alone() -> None:
    world = World(6)
    (key,) = world.connect(1)
    world.follower.willing = False
    world.follower.start()
    world.run(30)
    assert world.place(key) == BOTH_OLD
    assert world.leader.sockets[key].longest_stop == 0
    assert [kept.obstacle for kept in world.leader.transfers.tally.kept.values()] == [Obstacle.CONFIGURED]


def test_a_datagram_socket_whose_peer_is_not_connected_moves_alone() -> None:
    world = World(7)
    (key,) = world.connect(1, Transport.UDP)
    world.follower.sockets[key_of_other(key)].obstacle = Obstacle.NOTHING_TO_DO
    world.run(1)
    assert world.place(key) == (True, False)


def test_at_the_end_of_a_round_the_follower_moves_what_it_can_alone() -> None:
    world = World(8)
    world.connect(1)
    world.run(1)
    assert world.follower.datagram_moves >= 1
    assert world.leader.datagram_moves == 0


def test_the_round_is_over_when_the_follower_has_moved_its_datagram_sockets() -> None:
    """Until then the leader is busy, and lets go of no address."""
    world = World(8)
    world.connect(1)
    world.follower.datagrams_take = 0.6
    world.run(0.6)
    assert not world.follower.datagram_moves
    assert world.leader.transfers.busy
    world.run(0.6)
    pair = Pair(world.follower.own.current, world.follower.peer.current)
    assert world.follower.transfers.followed_through(pair)
    assert not world.leader.transfers.busy
    assert world.follower.datagram_moves == 1


def test_nothing_is_stopped_for_a_peer_that_does_not_answer() -> None:
    world = World(9, loss=1.0)
    (key,) = world.connect(1)
    world.run(120)
    assert world.place(key) == BOTH_OLD
    assert world.leader.sockets[key].longest_stop == 0
    assert [kept.obstacle for kept in world.leader.transfers.tally.kept.values()] == [Obstacle.SILENT]


@pytest.mark.parametrize("bound", [False, True])
def test_another_move_while_only_the_follower_has_moved_brings_them_together_again(*, bound: bool) -> None:
    world = World(12)
    (key,) = world.connect(1)
    while world.leader.sockets[key].stopped_since is None:
        world.run(0.001)
    world.loss = 1.0  # the request is on its way; the address that the answer is for is gone
    world.run(HOLD / 2)
    world.move(C)
    world.run(HOLD)
    world.loss = 0.0
    assert not world.together(key)
    if bound:
        world.leader.sockets[key].obstacle = Obstacle.BOUND
    world.run(40)
    assert world.together(key)
    assert world.place(key) == (BOTH_OLD if bound else BOTH_NEW)


def apart(world: World, *, bound: bool = False) -> list[Key]:
    """Two connections. The follower's sockets have moved to B, and the leader's have not when A is current again."""
    keys = world.connect(2)
    for key in keys if bound else ():
        world.leader.sockets[key].obstacle = Obstacle.BOUND
    while not world.follower.orders[MoveSockets]:
        world.run(0.001)
    world.loss = 1.0
    world.leader.start()
    world.run(HOLD + 0.1)
    world.move(A)
    assert [world.place(key) for key in keys] == [(True, False)] * 2
    return keys


@pytest.mark.parametrize("bound", [False, True])
def test_an_address_that_returns_while_only_the_follower_has_moved_finds_the_connection_again(*, bound: bool) -> None:
    """The leader's sockets need not move, so that it does not matter that they could not."""
    world = World(18)
    keys = apart(world, bound=bound)
    world.loss = 0.0
    world.run(5)
    assert [world.place(key) for key in keys] == [BOTH_NEW] * 2
    assert not any(socket.locked for socket in world.sockets)
    assert not world.leader.transfers.tally.kept


def test_what_stands_apart_and_the_follower_refuses_to_move_stays_locked_until_it_does() -> None:
    world = World(19)
    stays, moves = apart(world)
    world.follower.sockets[key_of_other(stays)].refuses = True
    world.loss = 0.0
    world.run(5)
    assert (world.place(stays), world.place(moves)) == ((True, False), BOTH_NEW)
    assert world.leader.sockets[stays].locked
    world.follower.sockets[key_of_other(stays)].refuses = False
    world.run(60)
    assert world.place(stays) == BOTH_NEW
    assert not world.leader.sockets[stays].locked


@pytest.mark.parametrize("returned", [False, True])
def test_what_stands_apart_and_cannot_be_stopped_here_stays_locked_until_it_can(*, returned: bool) -> None:
    world = World(20)
    stays, moves = apart(world)
    if not returned:
        world.move(B)
    world.leader.sockets[stays].refuses = True
    world.loss = 0.0
    world.run(5)
    assert not world.together(stays)
    assert world.place(moves) == BOTH_NEW
    world.leader.sockets[stays].refuses = False
    world.run(60)
    assert world.place(stays) == BOTH_NEW


def test_what_could_not_move_to_one_address_is_looked_at_for_the_next() -> None:
    world = World(13)
    (key,) = world.connect(1)
    world.leader.sockets[key].obstacle = Obstacle.KIND
    world.run(5)
    world.leader.sockets[key].obstacle = Obstacle.NONE
    world.run(60)
    assert world.place(key) == BOTH_OLD
    world.move(C)
    world.run(5)
    assert world.place(key) == BOTH_NEW


def test_a_follower_that_cannot_go_back_stays_locked_until_it_can() -> None:
    world = World(14)
    (key,) = world.connect(1)
    world.leader.sockets[key].obstacle = Obstacle.BOUND
    world.failed_returns = 1.0
    world.run(5)
    assert not world.together(key)
    world.failed_returns = 0.0
    world.run(60)
    assert world.together(key)


def test_a_return_that_the_follower_has_not_confirmed_is_asked_for_again() -> None:
    """Although the leader's socket cannot move for good, and would not be looked at any more."""
    world = World(17)
    (key,) = world.connect(1)
    world.leader.sockets[key].obstacle = Obstacle.BOUND
    while not world.leader.orders[RebuildSockets]:
        world.run(0.001)
    world.loss = 1.0
    world.run(10)
    assert not world.together(key)
    world.loss = 0.0
    world.run(60)
    assert world.place(key) == BOTH_OLD


def test_what_always_fails_is_tried_ever_more_seldom() -> None:
    world = World(11)
    (key,) = world.connect(1)
    world.leader.failing = frozenset({StopSockets})
    world.run(120)
    assert 5 < world.leader.orders[StopSockets] < 20
    world.leader.failing = frozenset()
    world.run(100)
    assert world.place(key) == BOTH_NEW


@pytest.mark.parametrize("delay", [0.3, 0.8])
def test_a_round_trip_longer_than_the_limit_moves_in_two_attempts(delay: float) -> None:
    """The follower's sockets move, the leader's time is over before the answer comes; the next attempt finds it so."""
    world = World(10, delay=delay)
    keys = world.connect(2)
    world.run(30)
    assert max(world.leader.sockets[key].longest_stop for key in keys) <= HOLD + 0.001
    assert [world.place(key) for key in keys] == [BOTH_NEW] * 2


def test_what_the_follower_refuses_for_certain_is_unlocked_at_once() -> None:
    world = World(15)
    refused, moves = world.connect(2)
    world.follower.sockets[key_of_other(refused)].obstacle = Obstacle.BOUND
    world.run(3)
    assert (world.place(refused), world.place(moves)) == (BOTH_OLD, BOTH_NEW)
    assert not any(socket.locked for socket in world.sockets)


def test_what_stands_together_at_an_old_pair_is_not_stopped_again_and_again() -> None:
    """Although both hosts have moved, and look for what stands apart."""
    world = World(31)
    world.move(B)
    world.move(Q, world.follower)
    keys = world.connect(2)
    world.leader.sockets[keys[0]].obstacle = Obstacle.BOUND
    world.follower.sockets[key_of_other(keys[1])].obstacle = Obstacle.BOUND
    world.run(10)
    stopped = world.leader.orders[StopSockets] + world.follower.orders[StopSockets]
    world.run(200)
    assert [world.place(key) for key in keys] == [BOTH_OLD] * 2
    assert world.leader.orders[StopSockets] + world.follower.orders[StopSockets] == stopped
    assert not any(socket.locked for socket in world.sockets)


def test_what_may_have_moved_at_the_follower_stays_locked() -> None:
    world = World(15)
    (key,) = world.connect(1)
    world.follower.failing = frozenset({MoveSockets})
    world.run(0.6)
    assert world.leader.orders[RebuildSockets]
    assert world.leader.sockets[key].locked


@pytest.mark.parametrize("bound", [False, True])
def test_a_follower_need_not_wait_when_nobody_has_let_go_the_leaders_programs(*, bound: bool) -> None:
    """The leader's sockets are where they are, and the follower is told."""
    world = World(16)
    stays, moves = world.connect(2)
    if bound:
        world.leader.sockets[stays].obstacle = Obstacle.BOUND
    world.leader.failing = frozenset({LetGo})
    while not world.leader.orders[LetGo]:
        world.run(0.01)
    world.leader.failing = frozenset()
    rounds = world.leader.orders[FindSockets]
    while world.follower.transfers.busy:
        world.run(0.01)
    assert max(socket.longest_stop for socket in world.follower.sockets.values()) < HOLD / 2
    assert (world.place(stays), world.place(moves)) == (BOTH_OLD if bound else BOTH_NEW, BOTH_NEW)
    assert not world.leader.sockets[moves].locked
    assert not world.leader.transfers.led_through()
    world.run(2)
    assert world.leader.orders[FindSockets] > rounds
    assert world.leader.transfers.led_through()


@pytest.mark.parametrize("seed", range(4))
def test_what_comes_late_moves_nothing_any_more(seed: int) -> None:
    """A request to take sockets back would take them away from where the leader's stand by then."""
    world = World(seed, late=0.9)
    keys = world.connect(3)
    for key in keys:
        world.leader.sockets[key].obstacle = Obstacle.BOUND
    world.run(1.5)
    for key in keys:
        world.leader.sockets[key].obstacle = Obstacle.NONE
        world.leader.transfers.tally.kept.clear()
    world.run(30)
    assert [world.place(key) for key in keys] == [BOTH_NEW] * 3


@pytest.mark.parametrize("order", [StopSockets, MoveSockets, RebuildSockets, LetGo])
@pytest.mark.parametrize("heard_after", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_transfer_in_which_the_address_changes_is_brought_to_its_end(
    order: type, heard_after: float, who: str
) -> None:
    """Whatever it has come to: nobody is held until the limit, and what stands apart is soon together again."""
    for seed in range(5):
        world = World(seed)
        keys = world.connect(3)
        while not world.leader.orders[order] + world.follower.orders[order]:
            world.run(0.001)
        moving, to = (world.leader, C) if who == "leader" else (world.follower, Q)
        world.move(to, moving, heard_after=heard_after)
        world.run(heard_after + 1.6)
        assert [world.place(key) for key in keys] == [BOTH_NEW] * 3
        assert max(socket.longest_stop for socket in world.sockets) < HOLD / 2
        assert not any(socket.locked for socket in world.sockets)


@pytest.mark.parametrize("seed", range(5))
def test_the_way_that_opens_with_the_proof_is_used_at_once_for_letting_go(seed: int) -> None:
    """Nothing gets through from the move on until the new address is proven, as when the old one is gone."""
    world = World(seed)
    keys = world.connect(2)
    while not world.follower.orders[MoveSockets]:
        world.run(0.001)
    world.loss = 1.0
    world.move(C, heard_after=0.72)  # the third retransmission is just over
    world.run(0.72)
    world.loss = 0.0
    world.run(0.3)
    assert max(socket.longest_stop for socket in world.follower.sockets.values()) < HOLD - 0.05
    world.run(2.0)
    assert [world.place(key) for key in keys] == [BOTH_NEW] * 2


def test_what_an_overtaken_move_has_not_moved_stays_unlocked_where_it_is() -> None:
    world = World(30)
    (key,) = world.connect(1)
    while not world.leader.orders[StopSockets]:
        world.run(0.001)
    world.move(C)
    world.leader.proven = False  # so that no other transfer begins
    world.run(0.5)
    assert world.place(key) == BOTH_OLD
    assert not world.follower.orders[MoveSockets]
    assert not any(socket.locked or socket.stopped_since for socket in world.sockets)


def put(world: World, key: Key, ours: Pair, theirs: Pair) -> None:
    """The ends of a connection stand apart, each pair as its host sees it, and locked where the other end is."""
    one, other = world.leader.sockets[key], world.follower.sockets[key_of_other(key)]
    one.pair, other.pair = ours, theirs
    one.locked, other.locked = {mirrored(theirs)}, {mirrored(ours)}


@pytest.mark.parametrize("crossed", [False, True], ids=["each on a pair of its own", "each on a pair of the other's"])
@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_what_stands_apart_after_both_hosts_have_moved_is_brought_together(
    seed: int, *, crossed: bool, bound: bool
) -> None:
    world = World(seed)
    world.move(B)
    world.move(Q, world.follower)
    keys = world.connect(3)
    for key in keys:
        here, there = (Pair(B, P), Pair(Q, A)) if crossed else (Pair(A, Q), Pair(P, B))
        put(world, key, here, there)
    if bound:
        world.leader.sockets[keys[0]].obstacle = Obstacle.BOUND
    world.run(3)
    moved = keys[1:] if bound else keys
    assert [world.place(key) for key in moved] == [BOTH_NEW] * len(moved)
    assert not any(world.leader.sockets[key].locked for key in moved)
    assert not any(world.follower.sockets[key_of_other(key)].locked for key in moved)
    world.leader.sockets[keys[0]].obstacle = Obstacle.NONE
    world.run(60)
    assert world.place(keys[0]) == BOTH_NEW


@pytest.mark.parametrize("seed", seeds(6))
def test_random_walk(seed: int) -> None:
    """Loss, doubled and late messages, movers that die, controllers that crash: then all is well again."""
    world = World(seed, loss=0.3, delay=0.03, mover_deaths=0.1, late=0.2)
    keys = world.connect(world.random.randint(1, 2 * MAX_CONNECTIONS))
    bound = {key for key in keys if world.random.random() < 0.1}
    for key in bound:
        end = world.random.choice([world.leader, world.follower])
        end.sockets[key if end is world.leader else key_of_other(key)].obstacle = Obstacle.BOUND
    world.failed_returns = 0.2
    for _ in range(world.random.randint(0, 6)):
        world.run(world.random.uniform(0, 1))
        world.random.choice([world.leader, world.follower]).start()
        for socket in world.sockets:
            socket.refuses = world.random.random() < 0.1
        if world.random.random() < 0.5:
            end, addresses = world.random.choice([(world.leader, [A, B, C, D]), (world.follower, [P, Q])])
            world.move(world.random.choice(addresses), end, heard_after=world.random.choice([0.0, 0.1, 0.6]))
            if world.random.random() < 0.5 and end.own.deprecated:
                world.run(world.random.uniform(0, HOLD))
                world.move(world.random.choice(end.own.deprecated), end)
    world.run(10)
    world.loss = world.mover_deaths = world.late = world.failed_returns = 0.0
    for socket in world.sockets:
        socket.refuses = False
    world.run(120)
    for key in keys:
        assert world.together(key), key
        assert world.place(key) == BOTH_NEW or key in bound, key
    assert max(socket.longest_stop for socket in world.sockets) <= HOLD + 0.001
    for end in (world.leader, world.follower):
        for _ in range(20):
            if end.held:  # another round is just going on
                world.run(0.1)
        assert not end.held
