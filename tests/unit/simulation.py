"""A world of two hosts in virtual time, in which the real protocol machines run and everything around them is feigned.

Each host has a PeerMachine, driven as the daemon drives it (snapshot, kernel state, actions, timer), addresses that
come and go, a charon that makes and ends IKE_SAs when packets get through, and sockets. The network loses, doubles
and reorders. Packets take the way that both kernels would give them: native, or in a carrier of the applied host
state; with the source and destination that hosts have at that moment. Everything random comes from one seed.

``World.check`` is asked after every event; it holds what must be true at any time. ``World.calm`` makes the world
quiet, after which ``World.check_agreement`` must hold.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from swanroam.protocol.authorisation import Policy, Surroundings
from swanroam.protocol.codec import decode, encode
from swanroam.protocol.events import (
    Action,
    AddressesRead,
    Association,
    AssociationsRead,
    EstablishFilters,
    Event,
    FallbacksResolved,
    FiltersEstablished,
    FiltersFailed,
    FiltersReleased,
    MessageReceived,
    ReadUsage,
    ReleaseFilters,
    Report,
    ResolveFallbacks,
    Send,
    StateApplied,
    TimerExpired,
    UsageRead,
)
from swanroam.protocol.host_state import HostState, Pair
from swanroam.protocol.messages import IPAddress, Method
from swanroam.protocol.peer import PeerMachine
from swanroam.protocol.settings import MobileSettings, PeerSettings

SENDS_PER_SECOND = 40
"""More datagrams in any second than this is a loop, not a retransmission."""
TIMERS_PER_SECOND = 60
GIVE_UP = 10.0
REFRESH = 30.0
GRACE = 2.0
FORGET_AFTER = 150.0
DEAD_PEER = 20.0
"""Seconds after which charon notices that an IKE_SA exists on its side only."""


class Crash(enum.Enum):
    """Where in the handling of an event the controller dies."""

    BEFORE_STORING = enum.auto()
    BEFORE_APPLYING = enum.auto()
    BEFORE_ACTING = enum.auto()


@dataclass(slots=True)
class Weather:
    """What the network does to datagrams. Probabilities, and seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    delay: tuple[float, float] = (0.005, 0.03)


@dataclass(slots=True, eq=False)
class Connection:
    """A long-lived connection between two addresses; each end closes for itself."""

    pairs: dict[Host, Pair]
    open_at: set[Host]


@dataclass(slots=True, eq=False)
class Host:
    """One host: addresses, charon, kernel, and the controller with its machine."""

    name: str
    world: World
    settings: PeerSettings
    usable: list[IPAddress]
    preferred: IPAddress | None = None
    applied: HostState = field(default_factory=HostState)
    ike_sas: dict[int, tuple[Pair, int]] = field(default_factory=dict)
    """By a number that both hosts share: the pair seen from here, and charon's own number for it."""
    cut_off: set[IPAddress] = field(default_factory=set)
    """Usable for all that this host knows, but the network does not carry their packets."""
    charon_fails: bool = False
    fallbacks: Callable[[], tuple[IPAddress, ...]] = tuple
    """Where the peer may be, as far as a name or the configuration tells."""
    crash: Crash | None = None
    running: bool = True
    stored: str = ""
    life: int = 0
    reports: list[Report] = field(default_factory=list)
    highest_accepted: int = 0
    ever: set[IPAddress] = field(default_factory=set)
    machine: PeerMachine = field(init=False)
    checked: tuple[object, ...] = (None, None, None, None)
    _sent: deque[float] = field(default_factory=deque)
    _timers: deque[float] = field(default_factory=deque)
    _armed: int = 0

    def __post_init__(self) -> None:
        self.machine = self.new_machine()
        self.stored = json.dumps(self.machine.snapshot())
        self.preferred = self.usable[0]
        self.ever.update(self.usable)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def other(self) -> Host:
        return next(host for host in self.world.hosts if host is not self)

    def new_machine(self) -> PeerMachine:
        return PeerMachine(self.settings, self.world.random.randbytes, self.world.random.random)

    # --- addresses ----------------------------------------------------------------------------------------------

    def appear(self, address: IPAddress, *, prefer: bool) -> None:
        if address not in self.usable:
            self.usable.append(address)
            self.ever.add(address)
        if prefer or self.preferred is None:
            self.preferred = address
        self.world.after(0.01, self.read_addresses)

    def disappear(self, address: IPAddress) -> None:
        if address in self.usable:
            self.usable.remove(address)
        if self.preferred == address:
            self.preferred = self.usable[-1] if self.usable else None
        self.world.after(0.01, self.read_addresses)

    def move(self, address: IPAddress, *, keep: bool) -> None:
        """To another address; hard when the old ones go at the same moment."""
        old = [other for other in self.usable if other != address]
        self.appear(address, prefer=True)
        if not keep:
            for gone in old:
                self.disappear(gone)

    def read_addresses(self) -> None:
        self.feed(AddressesRead(self.preferred, frozenset(self.usable)))

    # --- the controller, as the daemon drives it ----------------------------------------------------------------

    def feed(self, event: Event) -> None:
        if not self.running:
            return
        machine, now = self.machine, self.world.now
        machine.surroundings = Surroundings(own=frozenset(self.usable))
        actions = machine.feed(event, now)
        if self._dies(Crash.BEFORE_STORING):
            return
        self.stored = json.dumps(machine.snapshot())
        if self._dies(Crash.BEFORE_APPLYING):
            return
        wanted = machine.wanted()
        if wanted != self.applied:
            self.applied = wanted
            actions += machine.feed(StateApplied(), now)
            assert machine.wanted() == wanted, "StateApplied must not ask for yet another state"
        if self._dies(Crash.BEFORE_ACTING):
            return
        for action in actions:
            self._carry_out(action)
        self._set_timer()
        self.world.check_host(self)

    def lose_journal(self) -> None:
        """Between two runs. To be called when no old address is in use: the next run knows of none."""
        self.stored = json.dumps(self.new_machine().snapshot())
        self.highest_accepted = 0

    def restart(self, *, downtime: float = 0.5) -> None:
        """The controller is killed; kernel and charon stay as they are."""
        self.running = False
        self.life += 1
        self.crash = None
        self.world.after(downtime, self._start)

    def _start(self) -> None:
        if self.running:
            return
        self.running = True
        self.machine = self.new_machine()
        self.machine.restore(json.loads(self.stored), self.world.now)
        self.applied = self.machine.wanted()
        self.world.check_host(self)
        self.world.after(0.02, self.read_associations)
        self.world.after(0.02, self.read_addresses)
        self._set_timer()

    def _dies(self, point: Crash) -> bool:
        if self.crash is not point:
            return False
        self.restart()
        return True

    def _set_timer(self) -> None:
        deadline, now = self.machine.deadline(), self.world.now
        assert deadline is None or deadline > now, f"{self.name}: deadline {deadline} at {now} is a busy loop"
        self._armed += 1
        if deadline is not None:
            self.world.after(deadline - now, lambda armed=self._armed: self._expire(armed))

    def _expire(self, armed: int) -> None:
        if armed == self._armed and self.running:
            self.world.count(self._timers, TIMERS_PER_SECOND, f"{self.name}: timers")
            self.feed(TimerExpired())

    def later(self, delay: float, event: Event) -> None:
        """An event for this life of the controller: whoever asked must still be there to get the answer."""
        life = self.life
        self.world.after(delay, lambda: self.feed(event) if life == self.life else None)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(message):
                self.world.count(self._sent, SENDS_PER_SECOND, f"{self.name}: datagrams")
                self.world.transmit(self, encode(message))
            case EstablishFilters(pair):
                self.world.establish(self, pair)
            case ReleaseFilters(address):
                self.world.release(self, address)
            case ResolveFallbacks():
                self.later(self.world.random.uniform(0.001, 0.5), FallbacksResolved(self.fallbacks()))
            case ReadUsage(address):
                delay = self.world.random.uniform(0.001, 0.05)
                self.later(delay, UsageRead(address, self.sockets(address)))
            case Report():
                self.reports.append(action)

    def sockets(self, address: IPAddress) -> int:
        others = self.machine.counterparts(address)
        pairs = [connection.pairs[self] for connection in self.world.connections if self in connection.open_at]
        return sum(
            (pair.local == address and pair.remote in others) or (pair.remote == address and pair.local in others)
            for pair in pairs
        )

    # --- charon -------------------------------------------------------------------------------------------------

    def add_ike_sa(self, number: int, pair: Pair) -> None:
        self.ike_sas[number] = (pair, next(self.world.ike_ids))
        self.world.after(self.world.random.uniform(0.001, 0.1), self.read_associations)

    def remove_ike_sa(self, number: int) -> None:
        if self.ike_sas.pop(number, None) is not None:
            self.world.after(self.world.random.uniform(0.001, 0.1), self.read_associations)

    def read_associations(self) -> None:
        associations = tuple(
            Association(pair, ike_id, control=True, complete=True) for pair, ike_id in self.ike_sas.values()
        )
        if associations != self.machine.associations:
            self.feed(AssociationsRead(associations))

    # --- packets ------------------------------------------------------------------------------------------------

    def outer(self, pair: Pair, *, control: bool) -> Pair:
        """The addresses that a packet of a pair leaves with."""
        carried = [entry for entry in self.applied.carried if entry.inner == pair]
        full = [entry.outer for entry in carried if not entry.control_only]
        assert len(full) <= 1, f"{self.name}: two carriers for {pair}"
        for entry in carried:
            if entry.control_only and control:
                return entry.outer
        return full[0] if full else pair

    def lets_carrier_pass(self, outer: Pair, *, incoming: bool) -> bool:
        """Whether IP-in-IP between these addresses gets past the policies of this host."""
        demanded = outer in self.applied.guarded or any(pair == outer for pair, _ in self.ike_sas.values())
        bypassed = self.applied.bypassed | self.applied.bypassed_in if incoming else self.applied.bypassed
        return not demanded or outer in bypassed

    def reaches(self, address: IPAddress) -> bool:
        """Packets from and to this address of the host get through."""
        return address in self.usable and address not in self.cut_off

    def has(self, address: IPAddress) -> bool:
        return address in self.usable or address in self.applied.held


class World:
    """Two hosts, the network between them, and virtual time."""

    def __init__(self, seed: int, *, active: tuple[bool, bool] = (True, True)) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 1000.0
        self.weather = Weather()
        self.connections: list[Connection] = []
        self.ike_ids = itertools.count(1)
        self._numbers = itertools.count(1)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.hosts: tuple[Host, ...] = ()
        self.hosts = tuple(
            Host(name, self, _settings(moves, name), [address(name, 1)])
            for name, moves in zip("ab", active, strict=True)
        )
        self.a, self.b = self.hosts
        self.connect()

    def connect(self) -> None:
        """The administrator starts his connection between the preferred addresses."""
        if self.a.preferred is not None and self.b.preferred is not None:
            pair = Pair(self.a.preferred, self.b.preferred)
            if self.converses(self.a, pair):
                self._add_ike_sa(self.a, pair)

    # --- time ---------------------------------------------------------------------------------------------------

    def after(self, delay: float, work: Callable[[], object]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), work))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, work = heapq.heappop(self._queue)
            work()
        self.now = end
        self.check()

    def count(self, times: deque[float], most: int, what: str) -> None:
        times.append(self.now)
        while times[0] < self.now - 1.0:
            times.popleft()
        assert len(times) <= most, f"{what}: {len(times)} in a second"

    # --- the network --------------------------------------------------------------------------------------------

    def transmit(self, sender: Host, datagram: bytes) -> None:
        """Over the newest IKE_SA's control CHILD_SA, as the kernel picks it."""
        if not sender.ike_sas:
            return
        number, (pair, _) = max(sender.ike_sas.items(), key=lambda item: item[1][1])
        outer = sender.outer(pair, control=True)
        if not self._leaves(sender, pair, outer):
            return
        copies = 0 if self.random.random() < self.weather.loss else 1
        copies += self.random.random() < self.weather.duplication
        for _ in range(copies):
            self.after(
                self.random.uniform(*self.weather.delay), lambda: self._deliver(sender, number, pair, outer, datagram)
            )

    def _deliver(self, sender: Host, number: int, pair: Pair, outer: Pair, datagram: bytes) -> None:
        receiver = sender.other
        if number in receiver.ike_sas and self._arrives(receiver, pair, outer):
            receiver.feed(MessageReceived(decode(datagram)))

    def _leaves(self, sender: Host, pair: Pair, outer: Pair) -> bool:
        return sender.reaches(outer.local) and (outer == pair or sender.lets_carrier_pass(outer, incoming=False))

    def _arrives(self, receiver: Host, pair: Pair, outer: Pair) -> bool:
        if not receiver.reaches(outer.remote) or not receiver.has(pair.remote):
            return False
        return outer == pair or (
            _reversed(pair) in receiver.applied.admitted and receiver.lets_carrier_pass(_reversed(outer), incoming=True)
        )

    def delivers(self, sender: Host, pair: Pair) -> bool:
        """Whether data of a pair gets from one host to the other at this moment. Weather aside."""
        outer = sender.outer(pair, control=False)
        return self._leaves(sender, pair, outer) and self._arrives(sender.other, pair, outer)

    def converses(self, host: Host, pair: Pair) -> bool:
        return self.delivers(host, pair) and self.delivers(host.other, _reversed(pair))

    # --- charon -------------------------------------------------------------------------------------------------

    def establish(self, host: Host, pair: Pair) -> None:
        if host.charon_fails or not self.converses(host, pair):
            host.later(4.0, FiltersFailed(pair, "no answer"))
            return
        self.after(self.random.uniform(0.05, 0.3), lambda: self._finish_establishing(host, pair, host.life))

    def _finish_establishing(self, host: Host, pair: Pair, life: int) -> None:
        if not self.converses(host, pair):
            event: Event = FiltersFailed(pair, "no answer to IKE_AUTH")
        else:
            self._complete_ike_sa(host, pair)
            event = FiltersEstablished(pair)
        if life == host.life:
            host.later(self.random.uniform(0.001, 0.1), event)

    def _complete_ike_sa(self, host: Host, pair: Pair) -> None:
        """One that exists is used; its control CHILD_SA is made anew unless it is the newest, to which packets go."""
        both = [number for number, (known, _) in host.ike_sas.items() if known == pair and number in host.other.ike_sas]
        if both and all(both[-1] == max(end.ike_sas, key=lambda n, end=end: end.ike_sas[n][1]) for end in self.hosts):
            return
        for number in both:
            for end in self.hosts:
                end.remove_ike_sa(number)
        self._add_ike_sa(host, pair)

    def release(self, host: Host, address: IPAddress) -> None:
        if host.charon_fails:
            return  # the order is lost with the connection to charon
        for number, (pair, _) in list(host.ike_sas.items()):
            if address not in (pair.local, pair.remote):
                continue
            informed = self.converses(host, pair)
            host.remove_ike_sa(number)
            if informed:
                host.other.remove_ike_sa(number)
            else:
                self._notice_dead_peer(host.other, number)
        host.later(self.random.uniform(0.001, 0.2), FiltersReleased(address))

    def restart_charon(self, host: Host) -> None:
        for number in list(host.ike_sas):
            host.remove_ike_sa(number)
            self._notice_dead_peer(host.other, number)

    def _notice_dead_peer(self, host: Host, number: int) -> None:
        self.after(DEAD_PEER, lambda: host.remove_ike_sa(number))

    def _add_ike_sa(self, host: Host, pair: Pair) -> None:
        number = next(self._numbers)
        host.add_ike_sa(number, pair)
        host.other.add_ike_sa(number, _reversed(pair))

    # --- sockets ------------------------------------------------------------------------------------------------

    def open_connection(self) -> bool:
        """A new connection between the current addresses, when protection for it stands on both hosts."""
        pair = self.a.machine.pair
        managed = all(host.running and host.machine.managed for host in self.hosts)
        if pair is None or not managed or not self.protected(pair) or not self.converses(self.a, pair):
            return False
        if _reversed(pair) not in self.b.applied.guarded or pair not in self.a.applied.guarded:
            return False
        self.connections.append(Connection({self.a: pair, self.b: _reversed(pair)}, {self.a, self.b}))
        return True

    def protected(self, pair: Pair) -> bool:
        """One IKE_SA for the pair, as the first host sees it, is known to both."""
        return any(known == pair and number in self.b.ike_sas for number, (known, _) in self.a.ike_sas.items())

    def close(self, connection: Connection, host: Host) -> None:
        connection.open_at.discard(host)
        if not connection.open_at and connection in self.connections:
            self.connections.remove(connection)

    def close_all(self) -> None:
        for connection in list(self.connections):
            for host in self.hosts:
                self.close(connection, host)

    # --- what must be true at any time --------------------------------------------------------------------------

    def check(self) -> None:
        for host in self.hosts:
            self.check_host(host)

    def check_host(self, host: Host) -> None:
        self._check_sockets(host)
        if host.running:
            accepted = host.machine.correspondent.last_sequence
            assert accepted >= host.highest_accepted, f"{host.name}: accepted sequence fell to {accepted}"
            host.highest_accepted = accepted
            known = (host.applied, host.machine.own, host.machine.peer, host.machine.correspondent.proven)
            if any(old is not new for old, new in zip(host.checked, known, strict=True)):
                host.checked = known
                self._check_carriers(host)
                self._check_tables(host)

    def _check_sockets(self, host: Host) -> None:
        for connection in self.connections:
            if host in connection.open_at:
                pair = connection.pairs[host]
                assert pair in host.applied.guarded, f"{host.name}: a socket on {pair} could send in clear"
                if host.machine.managed:
                    assert host.has(pair.local), f"{host.name}: {pair.local} was taken from under a socket"
        for pair, _ in host.ike_sas.values():
            assert host.has(pair.local), f"{host.name}: {pair.local} was taken from under an IKE_SA"

    def _check_carriers(self, host: Host) -> None:
        state, machine = host.applied, host.machine
        full = {entry.inner for entry in state.carried if not entry.control_only}
        for entry in state.carried:
            assert entry.outer not in full, f"{host.name}: {entry} is carried by a carrier again"
            assert entry.inner != entry.outer, f"{host.name}: {entry} carries itself"
            assert machine.own is not None
            assert machine.peer is not None
            assert entry.outer.local == machine.own.current, f"{host.name}: {entry} does not leave from where we are"
            assert entry.outer.remote in machine.peer.addresses, f"{host.name}: {entry} goes to a released address"
            assert entry.outer.remote in host.other.ever, f"{host.name}: {entry} goes where the peer never was"
            if not entry.control_only and machine.correspondent.binding is not None:
                proven = machine.correspondent.proven
                assert entry.outer.remote == proven, f"{host.name}: data in {entry}, proven is {proven}"
        if machine.managed and machine.correspondent.binding is not None and machine.own is not None:
            for pair in {Pair(ours, its) for ours in machine.own.addresses for its in machine.peer.addresses}:
                native = pair not in full and pair not in state.withheld
                assert not native or pair.remote == machine.correspondent.proven, f"{host.name}: data of {pair} leaves"

    def _check_tables(self, host: Host) -> None:
        machine, state = host.machine, host.applied
        addresses = len(host.ever) + len(host.other.ever)
        assert len(state.held) <= len(host.ever)
        assert len(state.guarded) <= len(host.ever) * len(host.other.ever)
        assert len(state.carried) <= 2 * len(state.guarded)
        assert len(machine.correspondent.deadlines()) <= 2 * addresses + 2
        assert len(machine.mobile.deadlines()) <= 2 * addresses + 5

    # --- what must become true once the world is quiet ----------------------------------------------------------

    def calm(self) -> bool:
        """Ends all trouble and lets time pass. False when the hosts have lost each other, a documented limit.

        Without any IKE_SA the administrator has to start a new one. Where a stale carrier leads the answers astray,
        that works only after the peer is forgotten.
        """
        self.weather = Weather()
        for host in self.hosts:
            host.charon_fails = False
            host.crash = None
            if not host.usable:
                host.appear(next(iter(sorted(host.ever))), prefer=True)
        self.run(DEAD_PEER)
        patience = FORGET_AFTER + 2 * DEAD_PEER
        while not self.associated and patience > 0:
            self.connect()
            self.run(10.0)
            patience -= 10.0
        self.run(4 * REFRESH)
        return any(self._knows_where(host) for host in self.hosts)

    def name_hosts(self) -> None:
        """From now on each host has a name that resolves to where it is."""
        for host in self.hosts:
            host.fallbacks = lambda host=host: () if host.other.preferred is None else (host.other.preferred,)

    @property
    def associated(self) -> bool:
        return any(host.ike_sas for host in self.hosts)

    def _knows_where(self, host: Host) -> bool:
        return host.machine.peer is not None and host.other.reaches(host.machine.peer.current)

    def check_agreement(self) -> None:
        """To be called after `calm` has told that the hosts have not lost each other."""
        for host in self.hosts:
            own, seen = host.machine.own, host.other.machine.correspondent.binding
            assert own is not None, f"{host.name}: no binding"
            if host.settings.mobile.active:
                assert host.machine.mobile.settled, f"{host.name}: not settled"
                assert seen is not None, f"{host.other.name}: peer unknown"
                assert seen == host.machine.mobile.announcer.announced, (
                    f"{host.name} is {own}, {host.other.name} has {seen}"
                )
                assert host.other.machine.correspondent.proven == own.current
            assert not host.applied.withheld, f"{host.name}: {host.applied.withheld} is withheld"
            assert own.current in host.usable, f"{host.name}: stays at {own.current}, has {host.usable}"
        pair = self.a.machine.pair
        assert pair is not None
        assert self.protected(pair), f"no filters for {pair}"
        for connection in self.connections:
            pair = connection.pairs[self.a]
            if connection.open_at == set(self.hosts) and self.protected(pair) and self._announced(pair):
                assert self.converses(self.a, pair), f"the connection {pair} hangs"

    def check_nothing_left(self) -> None:
        """No socket used an old address for a while: no trace of one may be left."""
        self.check_agreement()
        for host in self.hosts:
            machine, state = host.machine, host.machine.wanted()
            assert machine.pair is not None
            assert machine.own is not None
            assert not machine.own.deprecated, f"{host.name}: still has {machine.own}"
            assert machine.mobile.handover is None, f"{host.name}: {machine.mobile.handover}"
            assert machine.correspondent.handover is None, f"{host.name}: {machine.correspondent.handover}"
            assert not machine.correspondent.lingering, f"{host.name}: {machine.correspondent.lingering} linger"
            assert not state.carried, f"{host.name}: {state.carried}"
            assert not state.bypassed, f"{host.name}: {state.bypassed}"
            assert not state.bypassed_in, f"{host.name}: {state.bypassed_in}"
            assert state.guarded == {machine.pair}, f"{host.name}: {state.guarded}"
            assert state.held == ({machine.own.current} if host.settings.mobile.active else set())
            assert {pair for pair, _ in host.ike_sas.values()} == {machine.pair}, f"{host.name}: {host.ike_sas}"
            assert state == host.applied

    def _announced(self, pair: Pair) -> bool:
        seen_by_b, seen_by_a = self.b.machine.peer, self.a.machine.peer
        return (
            seen_by_a is not None
            and seen_by_b is not None
            and pair.local in seen_by_b.addresses
            and pair.remote in seen_by_a.addresses
        )


def address(name: str, number: int) -> IPAddress:
    """An address of host `a` or `b`."""
    return IPv4Address(f"10.{'_ab'.index(name)}.0.{number}")


def _reversed(pair: Pair) -> Pair:
    return Pair(pair.remote, pair.local)


def _settings(active: bool, name: str) -> PeerSettings:
    mobile = MobileSettings(
        active=active,
        method=Method.RENEGOTIATE,
        first_retransmit=0.1,
        ceiling=5.0,
        give_up=GIVE_UP,
        refresh=REFRESH,
        grace=GRACE,
        end_after=None,
        instance=name.encode() * 8,
    )
    return PeerSettings(
        mobile=mobile,
        policy=Policy(may_move=True, allowed=()),
        transport=False,
        stopped_share=0.1,
        forget_after=FORGET_AFTER,
    )
