"""The half of the machine that owns this host's binding: the role of the mobile host towards one peer.

Theory of operation
===================

The half holds what should be true (`binding`, with a `sequence` that grows at each change) and what is known to be
true at the peer (`acknowledged`, `proven`) and in charon (`associations`). It does not walk through states; after
every event `advance` looks at the difference and does the first thing that is missing:

    the peer has not acknowledged the sequence ......... send the address change, retransmit
    a challenge is unanswered ........................... send the path response, retransmit
    no filters for (own current, peer's current) ........ establish them
    another address is preferred ....................... move: a new binding, a new sequence
    a deprecated address is past its grace period ....... count its sockets; with none: release its filters
    its filters are gone ................................ take it out of the binding, which is a new sequence

A move that comes in the middle of all this only changes the binding; there is nothing to unwind. This is what makes
A -> B -> A and A -> B -> C before the acknowledgment, lost messages, and a restart the same path as a plain move.

Two rules. Only what the peer acknowledged *and* proved is built upon. An address leaves the binding only when its
filters are gone from charon, so that charon never meets an address that has disappeared under a live IKE_SA.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from swanroam.protocol.binding import Binding
from swanroam.protocol.events import (
    Action,
    Association,
    EstablishFilters,
    Fact,
    ReadUsage,
    ReleaseFilters,
    Report,
    Send,
)
from swanroam.protocol.handover import Handover, Result, Step
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    IPAddress,
    Method,
    PathResponse,
    Verdict,
)
from swanroam.protocol.retransmission import Retransmission

USAGE_INTERVAL = (0.5, 5.0)
"""Seconds between two counts of the sockets on an address that is past its grace period: first, and at most."""
FILTERS_RETRY = (1.0, 30.0)
"""Seconds between two tries to establish filters: first, and at most."""
FILTERS_PATIENCE = 5.0
"""Seconds that filters of our making may be missing before they are made again: a rekey takes them away briefly."""


@dataclass(frozen=True, slots=True)
class MobileSettings:
    """What the configuration says. Times in seconds."""

    active: bool
    """We may move: registers with the peer and announces changes."""
    method: Method
    first_retransmit: float
    ceiling: float
    give_up: float
    """After so long without an answer the peer counts as silent; sending goes on at the refresh interval."""
    refresh: float
    grace: float
    instance: bytes
    """Identifies this run of the controller."""


class Mobile:
    """Our own binding, as the peer is to know it."""

    def __init__(self, settings: MobileSettings, token: Callable[[int], bytes], jitter: Callable[[], float]) -> None:
        self.settings = settings
        self.binding: Binding | None = None
        self.sequence = 0
        self.managed = False
        """The peer has acknowledged us once: it runs a controller and answers for this host's addresses."""
        self.proven = False
        self.ours: set[IPAddress] = set()
        """Own addresses whose filters this controller had charon make."""
        self.handover: Handover | None = None
        self.silent = False
        self.refusal = ""
        self.waiting: dict[IPAddress, int] = {}
        """Deprecated addresses past their grace period, with the number of sockets that keep them."""
        self._token = token
        self._acknowledged = 0
        self._accepted: Binding | None = None
        self._nonce = token(NONCE_SIZE)
        self._challenge: bytes | None = None
        self._preferred: IPAddress | None = None
        self._rejected: IPAddress | None = None
        """The preferred address, when the peer refused it: not tried again until another one is preferred."""
        self._usable: frozenset[IPAddress] = frozenset()
        self._exchange = Retransmission(settings.first_retransmit, settings.ceiling, jitter)
        self._refresh_due: float | None = None
        self._establishing: Pair | None = None
        self._establish_due = 0.0
        self._establish_delay = FILTERS_RETRY[0]
        self._missing_since: float | None = None
        self._grace_ends: dict[IPAddress, float] = {}
        self._usage_due: dict[IPAddress, float] = {}
        self._usage_delay: dict[IPAddress, float] = {}
        self._counting: set[IPAddress] = set()
        self._releasing: set[IPAddress] = set()
        self._peer_grace = 0.0

    # --- what came in -----------------------------------------------------------------------------------------

    def addresses_read(self, preferred: IPAddress | None, usable: frozenset[IPAddress], now: float) -> None:
        appeared = usable - self._usable
        self._usable = usable
        if preferred != self._preferred:
            self._preferred = preferred
            self._rejected = None
        if self.binding is not None and self.binding.current in appeared:
            self._exchange.hasten(now)

    def associations_read(self, associations: Collection[Association]) -> None:
        """Until the peer manages us, our binding is simply where charon has its IKE_SA."""
        if not self.managed and associations:
            newest = max(associations, key=lambda association: association.ike_id)
            if self.binding is None or self.binding.current != newest.pair.local:
                self.binding = Binding(newest.pair.local)
                self.sequence += 1

    def acknowledged(self, message: Acknowledgment, now: float) -> list[Action]:
        if message.sequence != self.sequence or message.nonce != self._nonce or self.binding is None:
            return []  # of an overtaken change, or forged by somebody who never saw the change: RFC 4555 §3.5
        self.silent = False
        if message.verdict is Verdict.STALE:
            self._renumber(message.last_sequence + 1, now)
            return []
        if message.verdict is Verdict.RATE_LIMITED:
            self._exchange.postpone(now + 1.0)
            return []
        if message.verdict is not Verdict.ACCEPTED:
            return self._refused(message, now)
        actions: list[Action] = []
        if not self.managed:
            self.managed = True
            actions.append(Report(Fact.PEER_REGISTERED, f"own address {self.binding.current}"))
        self.refusal = ""
        self._acknowledged = self.sequence
        self._accepted = self.binding
        self._peer_grace = message.grace_ms / 1000
        actions += self._step(Step.ACKNOWLEDGED, now)
        if message.challenge is None:
            self._exchange.stop()
            self._challenge = None
            self.proven = True
            self._refresh_due = now + self.settings.refresh
            actions += self._step(Step.PROVEN, now)
        elif message.challenge != self._challenge:
            self._challenge = message.challenge
            self.proven = False
            self._exchange.begin(now)
        return actions

    def filters_established(self, pair: Pair) -> None:
        self.ours.add(pair.local)
        if self._establishing == pair:
            self._establishing = None
        self._establish_delay = FILTERS_RETRY[0]

    def filters_failed(self, pair: Pair, reason: str, now: float) -> list[Action]:
        if self._establishing == pair:
            self._establishing = None
        self._establish_due = now + self._establish_delay
        self._establish_delay = min(self._establish_delay * 2, FILTERS_RETRY[1])
        return [Report(Fact.FILTERS_FAILED, f"{pair}: {reason}", self.handover)]

    def filters_released(self, address: IPAddress, now: float) -> list[Action]:
        self._releasing.discard(address)
        self.ours.discard(address)
        if self.binding is None or address not in self.binding.deprecated:
            return []  # it became current again meanwhile
        self.binding = self.binding.without(address)
        self._forget_deprecated(address)
        self._changed(now)
        return [Report(Fact.ADDRESS_RELEASED, str(address), self.handover)]

    def usage_read(self, address: IPAddress, sockets: int, now: float) -> list[Action]:
        self._counting.discard(address)
        if self.binding is None or address not in self.binding.deprecated or address in self._releasing:
            return []
        if sockets:
            delay = self._usage_delay.get(address, USAGE_INTERVAL[0])
            self._usage_delay[address] = min(delay * 2, USAGE_INTERVAL[1])
            self._usage_due[address] = now + delay
            first = address not in self.waiting
            self.waiting[address] = sockets
            if self.handover is not None:
                self.handover = self.handover.ended(Result.CARRYING, f"{sockets} sockets on {address}")
            return [Report(Fact.RELEASE_WAITS, f"{sockets} sockets on {address}", self.handover)] if first else []
        self._releasing.add(address)
        return [ReleaseFilters(address)]

    def state_applied(self, now: float) -> list[Action]:
        return self._step(Step.DEPRECATED, now)

    # --- what is missing --------------------------------------------------------------------------------------

    def advance(
        self, associations: Collection[Association], peer_current: IPAddress, peer_moving: bool, now: float
    ) -> list[Action]:
        """The next thing to do, given what is known now. See the theory above."""
        if self.binding is None or not self.settings.active:
            return []
        actions: list[Action] = []
        wanted = self._preferred
        if self.managed and wanted is not None and wanted not in (self.binding.current, self._rejected):
            actions += self._move(wanted, now)
        if self._refresh_due is not None and now >= self._refresh_due:
            self._refresh_due = None
            self._exchange.begin(now)
        if self._acknowledged < self.sequence and self._exchange.began is None:
            self._exchange.begin(now)
        has_control = any(association.control for association in associations)
        if has_control and self._exchange.is_due(now):
            actions += self._transmit(now)
        pair = Pair(self.binding.current, peer_current)
        complete = any(association.pair == pair and association.complete for association in associations)
        if complete:
            self._missing_since = None
            if self.settled:
                actions += self._step(Step.FILTERS, now)
        elif self._may_establish(pair, peer_moving, now):
            self._establishing = pair
            old = Pair(self.binding.deprecated[-1] if self.binding.deprecated else pair.local, peer_current)
            actions.append(EstablishFilters(pair, old))
        actions += self._release(now, ready=complete and self.settled)
        return actions

    def deadlines(self) -> list[float]:
        """Times at which `advance` may have something to do."""
        times = [self._refresh_due, self._exchange.due, self._establish_due, *self._usage_due.values()]
        if self._missing_since is not None:
            times.append(self._missing_since + FILTERS_PATIENCE)
        return [time for time in times if time is not None]

    @property
    def settled(self) -> bool:
        """The peer knows our binding, and our current address is proven to it."""
        return self._acknowledged == self.sequence and self.proven

    # --- inside -----------------------------------------------------------------------------------------------

    def _move(self, address: IPAddress, now: float) -> list[Action]:
        assert self.binding is not None
        actions: list[Action] = []
        if self.handover is not None:
            overtaken = self.handover.ended(Result.OVERTAKEN, f"by a move to {address}")
            actions.append(Report(Fact.HANDOVER_FINISHED, handover=overtaken))
        old = self.binding.current
        self.binding = self.binding.moved_to(address)
        self._forget_deprecated(address)
        self.proven = False
        self._establish_due = now
        self._establish_delay = FILTERS_RETRY[0]
        self._establishing = None
        self._changed(now)
        self.handover = Handover(self._token(HANDOVER_SIZE), old, address, self.sequence, now)
        actions.append(Report(Fact.HANDOVER_STARTED, f"{old} -> {address}", self.handover))
        if (oldest := self.binding.overfull) is not None:
            self._releasing.add(oldest)
            self.binding = self.binding.without(oldest)
            actions += [ReleaseFilters(oldest), Report(Fact.ADDRESS_RELEASED, f"{oldest}: too many old addresses")]
        return actions

    def _changed(self, now: float) -> None:
        self._renumber(self.sequence + 1, now)

    def _renumber(self, sequence: int, now: float) -> None:
        self.sequence = sequence
        self._nonce = self._token(NONCE_SIZE)
        self._challenge = None
        self._refresh_due = None
        self._exchange.begin(now)

    def _transmit(self, now: float) -> list[Action]:
        assert self.binding is not None
        actions: list[Action] = []
        began = self._exchange.began
        if not self.silent and began is not None and now - began >= self.settings.give_up:
            self.silent = True
            actions.append(Report(Fact.PEER_SILENT, f"no answer for {now - began:.0f} s", self.handover))
        handover = self.handover.id if self.handover is not None else bytes(HANDOVER_SIZE)
        if self._challenge is not None:
            actions.append(Send(PathResponse(self.sequence, handover, self._challenge)))
        else:
            change = AddressChange(
                sequence=self.sequence,
                handover=handover,
                nonce=self._nonce,
                current=self.binding.current,
                deprecated=self.binding.deprecated,
                method=self.settings.method,
                instance=self.settings.instance,
            )
            actions.append(Send(change))
        self._exchange.sent(now)
        if self.silent:
            self._exchange.postpone(now + self.settings.refresh)
        elif self._challenge is not None and self._exchange.attempts > 3:
            # The acknowledgment of our response may be lost, or the challenge be an old one: ask anew.
            self._challenge = None
        return actions

    def _refused(self, message: Acknowledgment, now: float) -> list[Action]:
        assert self.binding is not None
        self.refusal = f"{message.verdict.name.lower()}: {message.reason}"
        handover = self.handover.ended(Result.REFUSED, self.refusal) if self.handover is not None else None
        actions: list[Action] = [Report(Fact.CHANGE_REFUSED_BY_PEER, self.refusal, handover)]
        back = self._accepted
        if back is not None and back.current != self.binding.current and back.current in self._usable:
            actions += [Report(Fact.HANDOVER_FINISHED, handover=handover)] if handover is not None else []
            self._rejected = self.binding.current
            self.binding = back
            self.handover = None
            self._changed(now)
        else:
            self.handover = handover
            self._exchange.postpone(now + self.settings.refresh)
        return actions

    def _may_establish(self, pair: Pair, peer_moving: bool, now: float) -> bool:
        if self._establishing is not None or not (self.settled or self.silent):
            return False
        if self.handover is None or self.handover.reached(Step.FILTERS):
            if pair.local not in self.ours:
                return False  # the administrator's own connection: his to start and to stop
            if self._missing_since is None:
                self._missing_since = now
            if now < self._missing_since + FILTERS_PATIENCE:
                return False
        elif peer_moving and int(pair.local) > int(pair.remote) and not self._waited_for_peer(now):
            return False  # both hosts move: one of them is enough, and both know which
        return now >= self._establish_due

    def _waited_for_peer(self, now: float) -> bool:
        if self._missing_since is None:
            self._missing_since = now
        return now >= self._missing_since + FILTERS_PATIENCE

    def _release(self, now: float, *, ready: bool) -> list[Action]:
        assert self.binding is not None
        actions: list[Action] = []
        if not ready:
            return actions
        grace = max(self.settings.grace, self._peer_grace)
        for address in self.binding.deprecated:
            ends = self._grace_ends.setdefault(address, now + grace)
            due = self._usage_due.setdefault(address, ends)
            if now >= due and address not in self._counting and address not in self._releasing:
                actions += self._step(Step.GRACE, now)
                self._counting.add(address)
                actions.append(ReadUsage(address))
        if not self.binding.deprecated and self.handover is not None:
            actions += self._step(Step.RELEASED, now)
            actions.append(Report(Fact.HANDOVER_FINISHED, handover=self.handover.ended(Result.DONE)))
            self.handover = None
        return actions

    def _forget_deprecated(self, address: IPAddress) -> None:
        for table in (self._grace_ends, self._usage_due, self._usage_delay, self.waiting):
            table.pop(address, None)
        self._counting.discard(address)

    def _step(self, step: Step, now: float) -> list[Action]:
        if self.handover is None or self.handover.reached(step):
            return []
        self.handover = self.handover.with_step(step, now)
        return [Report(Fact.HANDOVER_STEP, step.value, self.handover)]
