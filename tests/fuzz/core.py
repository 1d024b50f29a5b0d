"""Datagrams, events, time and crashes against one peer's machine, in any order: a program in octets.

An input is read octet by octet: which thing happens, then its details. So every string of octets is a story, and a
story stays the same whatever the generator becomes. Numbers and challenges that only the machine knows are taken from
what it has said, right most of the time, and datagrams may be damaged on their way.

After everything that happens `Story.inspect` holds what must be true. A story counts for as many inputs as things
happen in it.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Network, ip_address, ip_network

from swanroam.daemon.translation import carriers
from swanroam.kernel.carrier_settings import check
from swanroam.protocol.authorisation import Policy, Surroundings
from swanroam.protocol.codec import MAX_DATAGRAM, MessageError, decode, encode
from swanroam.protocol.correspondent import BURST, MAX_LINGERING
from swanroam.protocol.credit import FACTOR, LEAST_AROUND, MOST_AROUND
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
    MigrateFilters,
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
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    INSTANCE_SIZE,
    MAX_DEPRECATED,
    MAX_SEQUENCE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    Connection,
    FiltersReply,
    FiltersRequest,
    IPAddress,
    Message,
    Method,
    Obstacle,
    PathResponse,
    Stage,
    TransferReply,
    TransferRequest,
    TransferStage,
    Transport,
    Verdict,
)
from swanroam.protocol.mobile import MobileSettings
from swanroam.protocol.peer import PeerMachine, PeerSettings
from swanroam.protocol.transfer import (
    MOST_KEPT,
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
    TransferExpired,
    TransferFailed,
)

THEIRS = tuple(ip_address(f"192.0.2.{number}") for number in range(1, 6))
OURS = tuple(ip_address(f"198.51.100.{number}") for number in range(1, 4))
OUTSIDE = ip_address("203.0.113.1")
ANOTHERS = ip_address("192.0.2.77")
CONTROL = IPv6Network("fd53:7761:6e72::/48")
NEVER = (
    *map(ip_address, ("127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "169.254.1.1")),
    *map(ip_address, ("::1", "ff02::1", "fe80::1", "fd53:7761:6e72::1", "2001:db8::1")),
)
"""Where no peer may move, whatever it says: the last for its family."""
CLAIMED = (*THEIRS * 4, *OURS, OUTSIDE, ANOTHERS, *NEVER)
PAUSES = (0.0, 0.001, 0.05, 0.3, 1.1, 5.5, 10.5, 31.0, 61.0, 700.0)
TIMERS = 400
"""Timers in one pause: more is a loop."""
ACTIONS = 120
"""Actions after one event: more is a flood."""


class Core:
    """See Target."""

    name = "core"

    def generate(self, choose: random.Random) -> bytes:
        length = choose.choice((20, 100, 300, 600))
        # Small numbers are the right answer to most of what a story asks.
        return bytes(choose.choice((choose.randrange(256), choose.randrange(16))) for _ in range(length))

    def check(self, data: bytes) -> int:
        return Story(data).tell()


class Story:
    """One machine and what happens to it."""

    def __init__(self, data: bytes) -> None:
        self._octets = iter(data)
        self._over = False
        self._tokens = itertools.count(1)
        self._settings = self._choose_settings()
        self._machine = self._new_machine()
        self._now = 1000.0
        self._applied = HostState()
        self._orders: deque[Action] = deque(maxlen=12)
        self._said: dict[type[Message], Message] = {}
        self._challenge = 0, bytes(NONCE_SIZE)
        self._stage = 0
        self._highest = 0
        self._credit = 0
        self._moves: deque[float] = deque(maxlen=int(BURST) + 1)
        self._happened = 0

    def tell(self) -> int:
        """Returns how many things have happened."""
        while not self._over:
            _THINGS[self._below(len(_THINGS))](self)
        self._restart()
        return max(1, self._happened)

    # --- reading the story --------------------------------------------------------------------------------------

    def _below(self, number: int) -> int:
        octet = next(self._octets, None)
        if octet is None:
            self._over = True
            return 0
        return octet % number

    def _address(self) -> IPAddress:
        address = CLAIMED[self._below(len(CLAIMED))]
        return THEIRS[0] if self._over else address

    def _choose_settings(self) -> PeerSettings:
        active, moves, method = self._below(4) > 0, self._below(5) > 0, Method(self._below(3) // 2)
        mobile = MobileSettings(
            active=active,
            method=method,
            first_retransmit=0.1,
            ceiling=5.0,
            give_up=30.0,
            refresh=60.0,
            grace=2.0,
            end_after=(None, 20.0)[self._below(2)],
            instance=bytes(INSTANCE_SIZE),
        )
        policy = Policy(moves, (ip_network("192.0.2.0/24"), ip_network("0.0.0.0/5")))
        return PeerSettings(
            mobile=mobile, policy=policy, transport=self._below(4) > 0, stopped_share=0.1, forget_after=600.0
        )

    def _new_machine(self) -> PeerMachine:
        return PeerMachine(self._settings, lambda size: next(self._tokens).to_bytes(size, "big"), lambda: 0.0)

    # --- driving the machine, as the daemon does ----------------------------------------------------------------

    def _feed(self, event: Event, size: int = 0) -> None:
        self._happened += 1
        self._machine.surroundings = Surroundings(
            own=frozenset(OURS), others=frozenset({ANOTHERS}), registered=frozenset({ANOTHERS}), control=CONTROL
        )
        unproven, sequence = self._machine.correspondent.unproven, self._machine.correspondent.last_sequence
        binding = self._machine.correspondent.binding
        actions = self._machine.feed(event, self._now)
        wanted = self._machine.wanted()
        if wanted != self._applied:
            self._applied = wanted
            actions += self._machine.feed(StateApplied(), self._now)
            assert self._machine.wanted() == wanted, "StateApplied asks for yet another state"
        half = self._machine.correspondent
        if half.unproven != unproven or half.last_sequence != sequence or half.binding != binding:
            self._credit = 0 if half.unproven != unproven else self._credit
        self._credit += FACTOR * (size + LEAST_AROUND[4]) if size else 0
        assert len(actions) <= ACTIONS, f"{len(actions)} actions after {event}"
        for action in actions:
            self._take(action)
        self.inspect(actions, moved=half.last_sequence != sequence)

    def _take(self, action: Action) -> None:
        match action:
            case Send(message):
                datagram = encode(message)
                assert len(datagram) <= MAX_DATAGRAM
                assert decode(datagram) == message
                self._said[type(message)] = message
                if isinstance(message, Acknowledgment) and message.challenge is not None:
                    self._challenge = message.sequence, message.challenge
                if self._machine.correspondent.unproven is not None:
                    self._credit -= len(datagram) + MOST_AROUND[4]
                    assert self._credit >= 0, "more than three times what came went to an address that is not proven"
            case Report():
                pass
            case _:
                self._orders.append(action)

    def _receive(self, datagram: bytes) -> None:
        try:
            message = decode(datagram)
        except MessageError:
            self._happened += 1
            return
        self._feed(MessageReceived(message), len(encode(message)))

    def _send(self, message: Message) -> None:
        """A message of the peer's, which may be damaged on its way."""
        datagram = bytearray(encode(message))
        if self._below(8) == 7:
            for _ in range(1 + self._below(3)):
                datagram[(self._below(256) * 3) % len(datagram)] = self._below(256)
        self._receive(bytes(datagram))

    # --- what can happen ----------------------------------------------------------------------------------------

    def _change(self) -> None:
        last = self._machine.correspondent.last_sequence
        sequence = (last + 1, last, last + 2, max(0, last - 1), last + 1, MAX_SEQUENCE, 0)[self._below(7)]
        current = self._address()
        peer = self._machine.peer
        known = peer.addresses if peer is not None else THEIRS
        named = [known[self._below(len(known))] if self._below(12) else self._address() for _ in range(self._below(4))]
        if self._below(12):
            named = [address for address in named if address != current]
        self._send(
            AddressChange(
                min(sequence, MAX_SEQUENCE),
                bytes(HANDOVER_SIZE),
                bytes([self._below(3)]) * NONCE_SIZE,
                current,
                tuple(dict.fromkeys(named)),
                Method(self._below(2)),
                bytes([self._below(3)]) * INSTANCE_SIZE,
            )
        )

    def _acknowledgment(self) -> None:
        asked = self._said.get(AddressChange)
        if not isinstance(asked, AddressChange):
            self._noise()
            return
        nonce = asked.nonce if self._below(8) else bytes(NONCE_SIZE)
        sequence = asked.sequence if self._below(8) else asked.sequence + 1
        challenge = (None, None, b"\x05" * NONCE_SIZE, bytes([self._below(256)]) * NONCE_SIZE)[self._below(4)]
        last = (asked.sequence, asked.sequence + 5, 0, MAX_SEQUENCE)[self._below(4)]
        verdict = (Verdict.ACCEPTED, Verdict.ACCEPTED, *Verdict)[self._below(2 + len(Verdict))]
        self._send(
            Acknowledgment(
                sequence,
                asked.handover,
                nonce,
                verdict,
                challenge,
                1000 * self._below(20),
                last,
                "",
                bytes(INSTANCE_SIZE),
            )
        )

    def _path_response(self) -> None:
        sequence, challenge = self._challenge
        if not self._below(6):
            sequence = min(sequence + 1, MAX_SEQUENCE)
        self._send(PathResponse(sequence, bytes(HANDOVER_SIZE), challenge if self._below(4) else bytes(NONCE_SIZE)))

    def _settle(self) -> None:
        """What one side lacks of a handover that goes well: so stories get to what comes after it."""
        asked, pair = self._said.get(AddressChange), self._machine.pair
        if self._machine.correspondent.unproven is not None:
            sequence, challenge = self._challenge
            self._send(PathResponse(sequence, bytes(HANDOVER_SIZE), challenge))
        elif isinstance(asked, AddressChange) and not self._machine.mobile.settled:
            handover, nonce, last = asked.handover, asked.nonce, asked.sequence
            self._send(Acknowledgment(last, handover, nonce, Verdict.ACCEPTED, None, 0, last, "", bytes(INSTANCE_SIZE)))
        elif pair is not None and not any(entry.pair == pair for entry in self._machine.associations):
            known = max((entry.ike_id for entry in self._machine.associations), default=0)
            added = Association(pair, known + 1, control=True, complete=True)
            self._feed(AssociationsRead((*self._machine.associations, added)))
        elif self._machine.transfers.busy and TransferRequest in self._said and self._below(2):
            self._transfer_reply()
        else:
            self._carried_out()

    def _led(self) -> None:
        """The peer leads a transfer from an old address of its, stage by stage."""
        own, peer = self._machine.own, self._machine.peer
        if own is None or peer is None or not peer.deprecated:
            self._settle()
            return
        self._stage = self._stage % len(TransferStage) + (1 if self._below(6) else 0) or 1
        stage = TransferStage(min(self._stage, len(TransferStage)))
        keys = () if stage is TransferStage.FINISH else tuple(Connection(Transport.TCP, port, 80) for port in (1, 2))
        self._send(
            TransferRequest(
                self._machine.correspondent.last_sequence,
                bytes(HANDOVER_SIZE),
                0 if stage is TransferStage.FINISH else 7,
                stage,
                (peer.deprecated[0], own.current),
                (peer.current, own.current),
                keys,
            )
        )
        for _ in range(2):
            self._carried_out()

    def _filters(self) -> None:
        stage = Stage(1 + self._below(2))
        if self._below(2):
            sequence = self._machine.correspondent.last_sequence
            self._send(FiltersRequest(sequence, bytes(HANDOVER_SIZE), stage))
        else:
            reason = ("", "no")[self._below(4) == 3]
            self._send(FiltersReply(self._machine.mobile.sequence, bytes(HANDOVER_SIZE), stage, reason))

    def _transfer_request(self) -> None:
        own, peer = self._machine.own, self._machine.peer
        if own is None or peer is None:
            self._noise()
            return
        ours = (own.current, *own.deprecated, OURS[2])
        its = (peer.current, *peer.deprecated, OUTSIDE)
        old = its[self._below(len(its))], ours[self._below(len(ours))]
        new = (peer.current, own.current) if self._below(6) else old
        if len({address.version for address in (*old, *new)}) > 1:
            self._noise()
            return
        self._send(
            TransferRequest(
                self._machine.correspondent.last_sequence,
                bytes(HANDOVER_SIZE),
                self._below(4),
                TransferStage(1 + self._below(4)),
                old,
                new,
                self._connections(),
            )
        )

    def _transfer_reply(self) -> None:
        asked = self._said.get(TransferRequest)
        if not isinstance(asked, TransferRequest):
            self._noise()
            return
        answered = tuple(
            replace(
                entry, port=entry.remote_port, remote_port=entry.port, obstacle=self._obstacle(), number=self._below(9)
            )
            for entry in asked.connections
            if self._below(8)
        )
        if not self._below(8):
            answered += self._connections()
        unique = {(entry.transport, entry.port, entry.remote_port): entry for entry in answered}
        stage = asked.stage if self._below(8) else TransferStage(1 + self._below(4))
        self._send(TransferReply(asked.sequence, asked.handover, asked.transfer, stage, tuple(unique.values())))

    def _noise(self) -> None:
        self._receive(b"SR\x01"[: self._below(4)] + bytes(self._below(256) for _ in range(self._below(40))))

    def _associations(self) -> None:
        """charon has some IKE_SAs, most of them where the hosts are."""
        own = self._machine.own
        ours = own.addresses if own is not None and self._below(4) else OURS
        peer = self._machine.peer
        its = peer.addresses if peer is not None and self._below(2) else THEIRS
        pairs: dict[Pair, Association] = {}
        for number in range(self._below(4)):
            pair = Pair(ours[self._below(len(ours))], its[self._below(len(its))])
            if pair.local.version == pair.remote.version:
                pairs[pair] = Association(pair, number + self._below(3) * 3, bool(self._below(5)), bool(self._below(4)))
        self._feed(AssociationsRead(tuple(sorted(pairs.values(), key=lambda entry: entry.ike_id))))

    def _addresses(self) -> None:
        usable = frozenset(address for address in OURS if self._below(3))
        preferred = OURS[self._below(len(OURS))]
        usable = usable if self._below(3) else usable | {preferred}
        self._feed(AddressesRead(preferred if preferred in usable else min(usable, default=None), usable))

    def _pause(self) -> None:
        """Time passes, and every timer is met, as in the daemon."""
        end = self._now + PAUSES[self._below(len(PAUSES))]
        for _ in range(TIMERS):
            deadline = self._machine.deadline()
            if deadline is None or deadline > end:
                break
            self._now = deadline
            self._feed(TimerExpired())
        else:
            raise AssertionError(f"{TIMERS} timers until {end}")
        self._now = end

    def _carried_out(self) -> None:
        """One of the orders is done, well most of the time."""
        if not self._orders:
            self._pause()
            return
        order = self._orders.popleft()
        well = self._below(5) > 0
        match order:
            case EstablishFilters(pair) | MigrateFilters(pair):
                self._feed(FiltersEstablished(pair) if well else FiltersFailed(pair, "no"))
            case ReleaseFilters(address):
                self._feed(FiltersReleased(address))
            case ResolveFallbacks():
                self._feed(FallbacksResolved(tuple(self._address() for _ in range(self._below(4)))))
            case ReadUsage(address):
                self._feed(UsageRead(address, 0 if well else self._below(3)))
            case _:
                self._transferred(order, well=well)

    def _transferred(self, order: Action, *, well: bool) -> None:
        match order:
            case FindSockets(old, new):
                keys = tuple(dict.fromkeys(self._key() for _ in range(self._below(5))))
                staying = 0 if well else self._below(3)
                self._feed(SocketsFound(old, new, keys[staying:], self._kept(keys[:staying])))
            case MoveDatagramSockets(old, new):
                self._feed(DatagramSocketsMoved(old, new))
            case InspectSockets(transfer, keys=keys):
                self._fed_or_failed(SocketsInspected(transfer, () if well else self._kept(keys)), transfer)
            case StopSockets(transfer, keys=keys):
                numbers = tuple((key, self._below(9)) for key in keys)
                self._fed_or_failed(
                    SocketsStopped(transfer, numbers if well else (), () if well else self._kept(keys)), transfer
                )
            case RebuildSockets(transfer, numbers) | MoveSockets(transfer, numbers=numbers):
                keys = tuple(key for key, _ in numbers)
                self._fed_or_failed(
                    SocketsMoved(transfer, numbers if well else (), () if well else self._kept(keys)), transfer
                )
            case LetGo(transfer, keys=keys):
                self._fed_or_failed(SocketsLetGo(transfer, () if well else self._kept(keys)), transfer)
            case _:
                self._pause()

    def _fed_or_failed(self, event: Event, transfer: int) -> None:
        match self._below(10):
            case 8:
                self._feed(TransferExpired(transfer))
                self._feed(event)
            case 9:
                self._feed(TransferFailed(transfer, "no"))
            case _:
                self._feed(event)

    def _unasked(self) -> None:
        """Results that nobody has asked for, or of orders of another life."""
        pair = Pair(OURS[self._below(len(OURS))], THEIRS[self._below(len(THEIRS))])
        address = (pair.local, pair.remote)[self._below(2)]
        events: tuple[Event, ...] = (
            FiltersEstablished(pair),
            FiltersFailed(pair, "late"),
            FiltersReleased(address),
            UsageRead(address, self._below(2)),
            TransferExpired(self._below(4)),
            TransferFailed(self._below(4), "late"),
            SocketsLetGo(self._below(4)),
            SocketsMoved(self._below(4), ((self._key(), 1),), ()),
        )
        self._feed(events[self._below(len(events))])

    def _restart(self) -> None:
        """The controller is killed, and the next takes over from the journal."""
        snapshot, half = self._machine.snapshot(), self._machine.correspondent
        stored = json.dumps(snapshot)
        self._machine = self._new_machine()
        self._machine.restore(json.loads(stored), self._now)
        if snapshot["own"] is not None and len(snapshot["own"]) == 1:
            snapshot["handover"] = None  # nothing is left of the old address: no step of it can be told any more
        assert self._machine.snapshot() == snapshot
        assert self._machine.correspondent.last_sequence == half.last_sequence
        self._applied = self._machine.wanted()
        self._orders.clear()
        self._said.clear()
        self._credit = 0
        self._happened += 1
        self.inspect([], moved=False)

    # --- details ------------------------------------------------------------------------------------------------

    def _key(self) -> Key:
        return Key((Transport.TCP, Transport.UDP)[self._below(4) == 3], 1 + self._below(3), 1 + self._below(3))

    def _obstacle(self) -> Obstacle:
        return Obstacle.NONE if self._below(3) else Obstacle(self._below(len(Obstacle)))

    def _kept(self, keys: tuple[Key, ...]) -> tuple[Kept, ...]:
        obstacles = [entry for entry in Obstacle if entry is not Obstacle.NONE]
        return tuple(Kept(key, obstacles[self._below(len(obstacles))]) for key in keys)

    def _connections(self) -> tuple[Connection, ...]:
        keys = dict.fromkeys(self._key() for _ in range(self._below(4)))
        return tuple(
            Connection(key.transport, key.port, key.remote_port, self._obstacle(), self._below(9)) for key in keys
        )

    # --- what must be true --------------------------------------------------------------------------------------

    def inspect(self, actions: list[Action], *, moved: bool) -> None:
        """At any time."""
        machine, half = self._machine, self._machine.correspondent
        deadline = machine.deadline()
        assert deadline is None or deadline > self._now, "a deadline that has passed is a busy loop"
        assert half.last_sequence >= self._highest, f"the accepted sequence fell to {half.last_sequence}"
        self._highest = half.last_sequence
        if moved:
            self._moves.append(self._now)
            most = len(self._moves) == self._moves.maxlen and self._now - self._moves[0] < (1 - 1e-6) / 3
            assert not most, "more changes than the limit"
        if half.binding is not None:
            assert half.binding.current not in NEVER, f"the peer is at {half.binding.current}"
            assert half.binding.current not in (*OURS, ANOTHERS), f"the peer is at {half.binding.current}"
            assert len(half.binding.deprecated) <= MAX_DEPRECATED + 1
            assert half.proven is None or half.proven in half.binding.addresses
        assert len(half.lingering) <= MAX_LINGERING + 2 * MAX_DEPRECATED
        assert len(machine.transfers.tally.kept) <= MOST_KEPT
        self._inspect_state(machine.wanted())

    def _inspect_state(self, state: HostState) -> None:
        machine = self._machine
        half = machine.correspondent
        check(carriers(state))
        if half.binding is None or machine.own is None:
            return
        full = {entry.inner: entry.outer for entry in state.carried if not entry.control_only}
        assert all(outer.remote == half.proven for outer in full.values()), "data is carried to where nothing is proven"
        for local in machine.own.addresses:
            for remote in half.binding.addresses:
                pair = Pair(local, remote)
                assert pair in state.guarded, f"{pair} is not guarded"
                native = pair not in full and pair not in state.withheld
                assert not native or remote == half.proven, f"data of {pair} leaves to where nothing is proven"


_THINGS: tuple[Callable[[Story], None], ...] = (
    Story._change,
    Story._change,
    Story._acknowledgment,
    Story._acknowledgment,
    Story._path_response,
    Story._settle,
    Story._settle,
    Story._settle,
    Story._carried_out,
    Story._carried_out,
    Story._associations,
    Story._addresses,
    Story._pause,
    Story._led,
    Story._transfer_request,
    Story._transfer_reply,
    Story._filters,
    Story._noise,
    Story._unasked,
    Story._restart,
)
