"""Whole handovers in the simulated world: some told as stories, and many at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from swanroam.protocol.correspondent import BURST, MAX_CHANGES
from swanroam.protocol.events import Fact
from swanroam.protocol.handover import Result
from swanroam.protocol.seeker import SEEK_AFTER, SEEK_PAUSE, Seeker
from unit.simulation import DEAD_PEER, FORGET_AFTER, GIVE_UP, GRACE, REFRESH, Crash, Host, World, address
from unit.walks import SEED_VARIABLE, seeds, walks

ADDRESSES = 5
WALKS = 6


def _world(seed: int = 1, *, active: tuple[bool, bool] = (True, True)) -> World:
    """Both hosts have registered, and a connection is open."""
    world = World(seed, active=active)
    world.run(2)
    assert world.open_connection()
    return world


def _settle(world: World) -> None:
    """Peace comes; the connections work; then they close, and nothing is left."""
    assert world.calm()
    world.check_agreement()
    world.close_all()
    world.run(100)
    world.check_nothing_left()


# --- stories ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [(True, False), (True, True)], ids=["one may move", "both may"])
@pytest.mark.parametrize("keep", [True, False], ids=["soft", "hard"])
def test_one_move(active: tuple[bool, bool], keep: bool):
    world = _world(active=active)
    world.a.move(address("a", 2), keep=keep)
    world.run(0.2)
    assert world.converses(world.a, world.connections[0].pairs[world.a]), "data flows before any filters"
    _settle(world)


@pytest.mark.parametrize("lost", [0.3, 0.7])
def test_move_through_a_bad_network(lost: float):
    world = _world()
    world.weather.loss = world.weather.duplication = lost
    world.a.move(address("a", 2), keep=False)
    world.run(20)
    _settle(world)


def test_ten_moves_with_a_connection_from_each_address():
    world = _world()
    for number in range(2, 12):
        world.a.move(address("a", number), keep=False)
        world.run(3)
        assert world.open_connection()
    _settle(world)


def test_there_and_back_within_the_grace_period():
    world = _world()
    for number in (2, 1, 2, 1):
        world.a.move(address("a", number), keep=False)
        world.run(GRACE / 2)
    _settle(world)


def test_two_moves_within_a_round_trip():
    world = _world()
    for number in (2, 3):
        world.a.move(address("a", number), keep=False)
        world.run(0.012)
    _settle(world)


def test_both_hosts_move_softly_at_once():
    world = _world()
    for host in world.hosts:
        host.move(address(host.name, 2), keep=True)
    world.run(GRACE)
    for host in world.hosts:
        host.disappear(address(host.name, 1))
    _settle(world)
    assert [host.machine.own.current for host in world.hosts] == [address("a", 2), address("b", 2)]


def test_hard_move_meets_soft_move():
    world = _world()
    world.a.move(address("a", 2), keep=False)
    world.b.move(address("b", 2), keep=True)
    _settle(world)


def test_both_hosts_move_hard_at_once_and_lose_each_other_but_leak_nothing():
    # a documented limit: neither can tell the other, and only the safety rules hold
    world = _world()
    for host in world.hosts:
        host.move(address(host.name, 2), keep=False)
    assert not world.calm()
    # when one of them gets its address back, they find each other again
    world.a.appear(address("a", 1), prefer=True)
    world.run(FORGET_AFTER)
    assert world.a.machine.mobile.settled or not world.a.ike_sas


@pytest.mark.parametrize("named", ["a", "b", "ab"])
@pytest.mark.parametrize("seed", range(1, 6))
def test_both_hosts_move_hard_at_once_and_find_each_other_by_name(named: str, seed: int):
    world = _world(seed)
    world.name_hosts()
    for host in world.hosts:
        host.fallbacks = host.fallbacks if host.other.name in named else tuple
        host.move(address(host.name, 2), keep=False)
    world.run(3 * GIVE_UP)
    assert world.converses(world.a, world.connections[0].pairs[world.a]), "the old connection goes on"
    assert [host.machine.own.current for host in world.hosts] == [address("a", 2), address("b", 2)]
    found = [host.name for host in world.hosts if _said(host, Fact.PEER_FOUND)]
    assert found
    assert set(found) <= {host.name for host in world.hosts if host.other.name in named}
    _settle(world)


def test_both_hosts_find_each_other_at_the_same_moment():
    world = _world()
    world.name_hosts()
    for host in world.hosts:
        host.move(address(host.name, 2), keep=False)
        host.machine.mobile.seeker = Seeker(lambda: 0.0)
    world.run(3 * GIVE_UP)
    assert all(_said(host, Fact.PEER_FOUND) for host in world.hosts)
    _settle(world)


@pytest.mark.parametrize("moment", [0.05, SEEK_AFTER + 0.3, SEEK_AFTER * 1.5 + 0.3])
@pytest.mark.parametrize("crash", [None, *Crash])
def test_crash_of_either_controller_while_it_seeks(moment: float, crash: Crash | None):
    for name in "ab":
        world = _world()
        world.name_hosts()
        for host in world.hosts:
            host.move(address(host.name, 2), keep=False)
        world.run(moment)
        host = getattr(world, name)
        if crash is None:
            host.restart()
        else:
            host.crash = crash
        world.run(3 * GIVE_UP)
        _settle(world)


def test_a_name_that_leads_to_nobody_or_to_others_changes_nothing():
    world = _world()
    before = {host: (host.machine.peer, host.machine.correspondent.proven) for host in world.hosts}
    elsewhere = (IPv4Address("203.0.113.1"), IPv4Address("203.0.113.2"), IPv4Address("127.0.0.1"))
    for host in world.hosts:
        host.fallbacks = lambda: elsewhere
        host.move(address(host.name, 2), keep=False)
    assert not world.calm()
    for host in world.hosts:
        assert (host.machine.peer, host.machine.correspondent.proven) == before[host]
        assert _said(host, Fact.PEER_NOT_FOUND)
        assert not _said(host, Fact.PEER_FOUND)
        assert not {entry.outer.remote for entry in host.applied.carried} & set(elsewhere)
    # the name is put right, in the end
    world.name_hosts()
    _settle(world)


def test_the_name_is_changed_late_and_the_old_connection_still_lives():
    world = _world()
    for host in world.hosts:
        host.move(address(host.name, 2), keep=False)
    world.run(2 * SEEK_PAUSE[1])
    world.name_hosts()
    world.run(SEEK_PAUSE[1] + GIVE_UP)
    assert world.converses(world.a, world.connections[0].pairs[world.a])
    _settle(world)


def _said(host: Host, fact: Fact) -> bool:
    return any(report.fact is fact for report in host.reports)


def test_correspondent_without_a_controller_is_left_alone():
    world = World(1)
    world.b.running = False
    world.run(2 * GIVE_UP)
    world.a.move(address("a", 2), keep=True)
    world.run(200)
    assert not world.a.machine.managed
    assert world.a.applied == world.a.machine.wanted()
    assert not world.a.applied.guarded
    assert {report.fact for report in world.a.reports} == {Fact.PEER_SILENT}
    assert len(world.a.ike_sas) == 1


def test_controller_that_comes_later_is_registered_with():
    world = World(1)
    world.b.running = False
    world.run(100)
    world.b.restart()
    _settle(world)


def test_refused_address_leaves_the_host_where_it_was():
    world = _world()
    world.b.usable.append(address("a", 2))  # b has this address itself
    world.a.move(address("a", 2), keep=True)
    world.run(5)
    world.b.usable.remove(address("a", 2))
    assert world.a.machine.own.current == address("a", 1)
    results = [report.handover.result for report in world.a.reports if report.fact is Fact.HANDOVER_FINISHED]
    assert results == [Result.REFUSED]
    _settle(world)


@pytest.mark.parametrize("keep", [True, False], ids=["both there", "one there"])
def test_addresses_that_flap_ten_times_a_second_cause_no_more_than_the_peer_allows(keep: bool):
    world = _world()
    seconds = 20
    for turn in range(10 * seconds):
        world.a.move(address("a", 1 + turn % 2), keep=keep)
        world.run(0.1)
    accepted = sum(report.fact is Fact.CHANGE_ACCEPTED for report in world.b.reports)
    assert accepted <= BURST + seconds * MAX_CHANGES + 1  # the first is that of registering
    _settle(world)
    assert world.a.machine.own.current == address("a", 2)


def test_dead_path_leads_back_to_the_old_address():
    world = _world()
    world.a.cut_off.add(address("a", 2))
    world.a.move(address("a", 2), keep=True)
    world.run(2 * GIVE_UP)
    _settle(world)
    assert world.a.machine.own.current == address("a", 1)


@pytest.mark.parametrize("moment", [0.011, 0.05, 0.3, GRACE + 0.5])
@pytest.mark.parametrize("crash", [None, *Crash])
def test_crash_of_either_controller_at_any_moment_of_a_move(moment: float, crash: Crash | None):
    for name in "ab":
        world = _world()
        world.a.move(address("a", 2), keep=False)
        world.run(moment)
        host = getattr(world, name)
        if crash is None:
            host.restart()
        else:
            host.crash = crash
        world.run(10)
        world.check_agreement()
        world.close_all()
        world.run(60)
        world.check_nothing_left()


@pytest.mark.parametrize("losers", ["a", "b", "ab"])
def test_after_a_lost_journal_sequences_go_on_above_those_that_the_peer_knows(losers: str):
    world = _world()
    for number in (2, 3, 4):
        world.a.move(address("a", number), keep=False)
        world.run(1)
    world.close_all()
    world.run(100)
    known = {host: host.machine.correspondent.last_sequence for host in world.hosts}
    assert known[world.b] > 3
    for name in losers:
        host = getattr(world, name)
        host.restart()
        host.lose_journal()
    world.run(2 * REFRESH)
    for host in world.hosts:
        if host.other.name not in losers:
            assert host.machine.mobile.sequence >= known[host.other]
    assert world.open_connection()
    world.a.move(address("a", 5), keep=False)
    world.run(5)
    world.check_agreement()
    _settle(world)


@pytest.mark.parametrize("moment", [0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, GRACE + 0.1, GRACE + 0.5])
@pytest.mark.parametrize("with_controller", [False, True], ids=["charon", "and controller"])
@pytest.mark.parametrize("victims", ["a", "b", "ab"])
def test_charon_dies_at_any_moment_of_a_move(victims: str, with_controller: bool, moment: float):
    """The administrator's connection comes up again by itself, when charon that lives has noticed."""
    world = _world()
    world.a.move(address("a", 2), keep=False)
    world.run(moment)
    for name in victims:
        host = getattr(world, name)
        world.restart_charon(host)
        if with_controller:
            host.restart()
    world.run(DEAD_PEER)
    _settle(world)


def test_charon_that_fails_for_a_while():
    world = _world()
    world.a.charon_fails = True
    world.a.move(address("a", 2), keep=False)
    world.run(100)
    assert world.converses(world.a, world.connections[0].pairs[world.a]), "the carrier does without new filters"
    _settle(world)


# --- walks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(WALKS))
def test_random_walk(seed: int):
    """Anything may happen for a while; at no moment may anything be unsafe, and peace must mend everything."""
    try:
        _walk(seed)
        assert _walk(seed, named=True), "hosts that have names can't lose each other"
    except AssertionError:
        print(f"to see this walk again: {SEED_VARIABLE}={seed}")
        raise


def _walk(seed: int, steps: int = 40, *, named: bool = False) -> bool:
    """False when the hosts lost each other."""
    world = World(seed, active=(True, seed % 4 != 0))
    if named:
        world.name_hosts()
    choose = random.Random(seed + 1)
    world.run(2)
    for _ in range(steps):
        choose.choices(_STEPS, _WEIGHTS)[0](world, choose)
        world.run(choose.choice((0.001, 0.02, 0.05, 0.3, 1.0, 4.0, 15.0)))
    if not world.calm():
        return False
    world.check_agreement()
    world.close_all()
    world.run(100)
    world.check_nothing_left()
    return True


def _any_host(world: World, choose: random.Random) -> Host:
    return choose.choice(world.hosts)


def _moving_host(world: World, choose: random.Random) -> Host:
    return choose.choice([host for host in world.hosts if host.settings.mobile.active])


def _appear(world: World, choose: random.Random) -> None:
    host = _moving_host(world, choose)
    host.appear(address(host.name, choose.randint(1, ADDRESSES)), prefer=choose.random() < 0.7)


def _disappear(world: World, choose: random.Random) -> None:
    host = _moving_host(world, choose)
    if host.usable:
        host.disappear(choose.choice(host.usable))


def _move(world: World, choose: random.Random) -> None:
    host = _moving_host(world, choose)
    host.move(address(host.name, choose.randint(1, ADDRESSES)), keep=choose.random() < 0.5)


def _weather(world: World, choose: random.Random) -> None:
    world.weather.loss = choose.choice((0.0, 0.0, 0.3, 0.8))
    world.weather.duplication = choose.choice((0.0, 0.3))
    world.weather.delay = choose.choice(((0.005, 0.03), (0.001, 0.4)))


def _open(world: World, choose: random.Random) -> None:
    world.open_connection()


def _close(world: World, choose: random.Random) -> None:
    if world.connections:
        world.close(choose.choice(world.connections), _any_host(world, choose))


def _restart(world: World, choose: random.Random) -> None:
    _any_host(world, choose).restart(downtime=choose.choice((0.1, 3.0)))


def _crash(world: World, choose: random.Random) -> None:
    _any_host(world, choose).crash = choose.choice(list(Crash))


def _charon_fails(world: World, choose: random.Random) -> None:
    host = _any_host(world, choose)
    host.charon_fails = not host.charon_fails


def _charon_restarts(world: World, choose: random.Random) -> None:
    world.restart_charon(_any_host(world, choose))


_RULES: dict[Callable[[World, random.Random], None], int] = {
    _appear: 4,
    _disappear: 4,
    _move: 8,
    _weather: 2,
    _open: 6,
    _close: 5,
    _restart: 2,
    _crash: 2,
    _charon_fails: 1,
    _charon_restarts: 1,
}
_STEPS, _WEIGHTS = list(_RULES), list(_RULES.values())


class Walk(RuleBasedStateMachine):
    """The same, with steps that hypothesis chooses, and shortens when they break something."""

    @initialize(seed=st.integers(0, 1000))
    def register(self, seed: int) -> None:
        self.world = _world(seed)

    @rule(name=st.sampled_from("ab"), number=st.integers(1, ADDRESSES), keep=st.booleans())
    def move(self, name: str, number: int, keep: bool) -> None:
        getattr(self.world, name).move(address(name, number), keep=keep)

    @rule(name=st.sampled_from("ab"), number=st.integers(1, ADDRESSES), prefer=st.booleans())
    def appear(self, name: str, number: int, prefer: bool) -> None:
        getattr(self.world, name).appear(address(name, number), prefer=prefer)

    @rule(name=st.sampled_from("ab"), number=st.integers(1, ADDRESSES))
    def disappear(self, name: str, number: int) -> None:
        getattr(self.world, name).disappear(address(name, number))

    @rule(loss=st.sampled_from((0.0, 0.3, 0.9)), duplication=st.sampled_from((0.0, 0.5)), slow=st.booleans())
    def weather(self, loss: float, duplication: float, slow: bool) -> None:
        weather = self.world.weather
        weather.loss, weather.duplication = loss, duplication
        weather.delay = (0.001, 0.5) if slow else (0.005, 0.03)

    @rule()
    def open(self) -> None:
        self.world.open_connection()

    @rule(name=st.sampled_from("ab"), index=st.integers(0, 9))
    def close(self, name: str, index: int) -> None:
        if index < len(self.world.connections):
            self.world.close(self.world.connections[index], getattr(self.world, name))

    @rule(name=st.sampled_from("ab"), crash=st.none() | st.sampled_from(Crash))
    def restart(self, name: str, crash: Crash | None) -> None:
        host: Host = getattr(self.world, name)
        if crash is None:
            host.restart()
        else:
            host.crash = crash

    @rule(name=st.sampled_from("ab"), fails=st.booleans())
    def charon(self, name: str, fails: bool) -> None:
        getattr(self.world, name).charon_fails = fails

    @rule(name=st.sampled_from("ab"))
    def restart_charon(self, name: str) -> None:
        self.world.restart_charon(getattr(self.world, name))

    @rule(seconds=st.sampled_from((0.001, 0.02, 0.1, 1.0, 5.0, 20.0)))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    def teardown(self) -> None:
        if hasattr(self, "world") and self.world.calm():
            self.world.check_agreement()
            self.world.close_all()
            self.world.run(100)
            self.world.check_nothing_left()


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=walks(WALKS),
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
