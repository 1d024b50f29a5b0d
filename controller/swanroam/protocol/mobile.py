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
    its filters are gone, and still no socket uses it ... take it out of the binding, which is a new sequence

A move that comes in the middle of all this only changes the binding; there is nothing to unwind. This is what makes
A -> B -> A and A -> B -> C before the acknowledgment, lost messages, and a restart the same path as a plain move.
The way back, when the peer refuses the new address or is not heard from there, is one more move.

Two rules. Only what the peer acknowledged *and* proved is built upon; a peer that nothing is heard of by any path is
the exception, because then only IKE can bring it back. An address leaves the binding only when its filters are gone
from charon, so that charon never meets an address that has disappeared under a live IKE_SA, and when no socket is
left on it, so that none can send unguarded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from swanroam.protocol.binding import Binding
from swanroam.protocol.disclosure import Disclosure
from swanroam.protocol.events import (
    Action,
    Association,
    EstablishFilters,
    Fact,
    ReadUsage,
    Report,
    Send,
)
from swanroam.protocol.filters import Filters
from swanroam.protocol.handover import Handover, Result, Step
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    MAX_SEQUENCE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    IPAddress,
    Method,
    PathResponse,
    Verdict,
)
from swanroam.protocol.release import Releases
from swanroam.protocol.retransmission import Retransmission
from swanroam.protocol.snapshot import Snapshot

QUICK_TRIES = 4
"""Transmissions with growing pauses, to a silent peer after the path has changed, or of one path response."""
PAUSE = 1.0
"""Seconds to wait when the peer asks for patience."""


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
        self.handover: Handover | None = None
        self.silent = False
        self.refusal = ""
        self.announced: Binding | None = None
        """What the peer is told at this sequence; see Disclosure."""
        self.accepted: IPAddress | None = None
        """The current address that the peer accepted last: the way back."""
        self._token = token
        self._acknowledged = 0
        self._stale_answers = 0
        self._nonce = token(NONCE_SIZE)
        self._challenge: bytes | None = None
        self._preferred: IPAddress | None = None
        self._rejected: IPAddress | None = None
        """The preferred address, when it failed: not tried again until another is preferred or we have no choice."""
        self._usable: frozenset[IPAddress] = frozenset()
        self._disclosure = Disclosure()
        self._control: frozenset[int] = frozenset()
        self._exchange = Retransmission(settings.first_retransmit, settings.ceiling, jitter)
        self._refresh_due: float | None = None
        self._filters = Filters()
        self._releases = Releases()
        self._peer_grace = 0.0

    @property
    def waiting(self) -> dict[IPAddress, int]:
        """Deprecated addresses past their grace period, with the number of sockets that keep them."""
        return self._releases.waiting

    @property
    def ours(self) -> set[IPAddress]:
        """Own addresses whose filters this controller had charon make."""
        return self._filters.ours

    @property
    def settled(self) -> bool:
        """The peer knows our binding, and our current address is proven to it."""
        return self._acknowledged == self.sequence and self.proven

    def restore(self, snapshot: Snapshot, now: float) -> None:
        """Takes over what an earlier run knew."""
        binding = self.binding = snapshot.own
        self.sequence = snapshot.sequence
        self.managed = snapshot.managed and binding is not None
        self.accepted = snapshot.accepted
        self.ours.update(snapshot.ours)
        if binding is not None:
            self._disclosure.accepted(binding.addresses)
            self.announced = self._disclosure.announcement(binding)
            if snapshot.handover is not None and binding.deprecated:
                old = binding.deprecated[-1]
                self.handover = Handover(snapshot.handover, old, binding.current, snapshot.sequence, now)

    def forget(self) -> None:
        """The peer is gone: whatever it knew of us counts for nothing. Our addresses stay, for the guards."""
        self.managed = self.proven = self.silent = False
        self.handover = self.accepted = self._challenge = self._refresh_due = None
        self._acknowledged = 0
        self._filters = Filters()
        self._exchange.stop()
        self._disclosure.clear()
        self._releases.clear()

    # --- what came in -----------------------------------------------------------------------------------------

    def addresses_read(self, preferred: IPAddress | None, usable: frozenset[IPAddress], now: float) -> None:
        appeared = usable - self._usable
        self._usable = usable
        if preferred != self._preferred:
            self._preferred = preferred
            self._rejected = None
        if self.binding is not None and self.binding.current in appeared:
            self._exchange.hasten(now)
        if self.binding is not None and self.binding.current not in usable:
            self._rejected = None

    def associations_read(self, associations: Collection[Association], now: float) -> None:
        """Until the peer manages us, our binding is simply where charon has its IKE_SA."""
        control = frozenset(association.ike_id for association in associations if association.control)
        if control - self._control:
            self._exchange.hasten(now)  # a new way to the peer
        self._control = control
        self._disclosure.associations_read(association.pair.local for association in associations)
        if not self.managed and associations:
            newest = max(associations, key=lambda association: association.ike_id).pair.local
            if self.binding is None or not self.binding.deprecated:
                after = Binding(newest)
            else:
                after = self.binding.moved_to(newest)  # managed once, then forgotten: guard what was guarded
            if self.binding != after:
                self.binding = after
                self._changed(now)

    def peer_restarted(self, now: float) -> None:
        """Its controller is a new one, and may know nothing of us."""
        if self._acknowledged == self.sequence:
            self._exchange.begin(now)

    def acknowledged(self, message: Acknowledgment, now: float) -> list[Action]:
        if message.sequence != self.sequence or message.nonce != self._nonce or self.binding is None:
            return []  # of an overtaken change, or forged by somebody who never saw the change: RFC 4555 §3.5
        self.silent = False
        if message.verdict is Verdict.STALE and message.last_sequence < MAX_SEQUENCE // 2:
            self._renumber(max(self.sequence, message.last_sequence) + 1, now)
            self._stale_answers += 1
            if self._stale_answers > 1:
                self._exchange.postpone(now + PAUSE)  # once is enough, unless it makes the numbers up
            return []
        if message.verdict is Verdict.RATE_LIMITED:
            self._exchange.postpone(now + PAUSE)
            return []
        if message.verdict is not Verdict.ACCEPTED:
            return self._refused(message, now)
        actions: list[Action] = []
        if not self.managed:
            self.managed = True
            actions.append(Report(Fact.PEER_REGISTERED, f"own address {self.binding.current}"))
        self.refusal = ""
        self._stale_answers = 0
        self._acknowledged = self.sequence
        self.accepted = self.binding.current
        if self.announced is not None:
            self._disclosure.accepted(self.announced.addresses)
        if self.handover is not None and self.handover.result is Result.REFUSED:
            self.handover = self.handover.ended(Result.RUNNING)
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

    def filters_established(self, pair: Pair, now: float) -> None:
        self._filters.established(pair, now)

    def filters_failed(self, pair: Pair, reason: str, now: float) -> list[Action]:
        self._filters.failed(pair, now)
        return [Report(Fact.FILTERS_FAILED, f"{pair}: {reason}", self.handover)]

    def filters_released(self, address: IPAddress, now: float) -> None:
        self._releases.filters_released(address, now)
        if self.binding is not None and address == self.binding.current:
            self.ours.add(address)  # it became current again meanwhile, and we have taken its filters away
        else:
            self.ours.discard(address)

    def usage_read(self, address: IPAddress, sockets: int, now: float) -> list[Action]:
        if self.binding is None or address not in self.binding.deprecated:
            return []
        first = address not in self.waiting
        actions = self._releases.usage_read(address, sockets, now)
        if actions is None:
            self.binding = self.binding.without(address)
            self._releases.forget(address)
            if self.announced is not None and address in self.announced.deprecated:
                self._changed(now)
            return [Report(Fact.ADDRESS_RELEASED, str(address), self.handover)]
        if first and address in self.waiting:
            detail = f"{sockets} sockets on {address}"
            if self.handover is not None:
                self.handover = self.handover.ended(Result.CARRYING, detail)
            actions.append(Report(Fact.RELEASE_WAITS, detail, self.handover))
        return actions

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
        if (
            self.managed
            and wanted is not None
            and wanted not in (self.binding.current, self._rejected)
            and wanted.version == self.binding.current.version
        ):
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
        complete = not self._releases.terminating(pair.local, now) and any(
            association.pair == pair and association.complete for association in associations
        )
        if complete:
            self._filters.complete()
            if self.settled:
                actions += self._step(Step.FILTERS, now)
        elif self._may_establish(pair, has_control, peer_moving, now):
            self._filters.begin(pair)
            old = Pair(self.binding.deprecated[-1] if self.binding.deprecated else pair.local, peer_current)
            actions.append(EstablishFilters(pair, old))
        actions += self._release(now, ready=complete and self.settled)
        return actions

    def deadlines(self) -> list[float]:
        """Times at which `advance` may have something to do."""
        times = [self._refresh_due, self._exchange.due, *self._filters.deadlines(), *self._releases.deadlines()]
        return [time for time in times if time is not None]

    # --- inside -----------------------------------------------------------------------------------------------

    def _move(self, address: IPAddress, now: float) -> list[Action]:
        assert self.binding is not None
        actions: list[Action] = []
        if self.handover is not None:
            overtaken = self.handover.ended(Result.OVERTAKEN, f"by a move to {address}")
            actions.append(Report(Fact.HANDOVER_FINISHED, handover=overtaken))
        old = self.binding.current
        self._put_current(address, now)
        self.handover = Handover(self._token(HANDOVER_SIZE), old, address, self.sequence, now)
        actions.append(Report(Fact.HANDOVER_STARTED, f"{old} -> {address}", self.handover))
        return actions

    def _go_back(self, address: IPAddress, result: Result, reason: str, now: float) -> list[Action]:
        """The address that failed stays in the binding, and so guarded, until nothing uses it."""
        assert self.binding is not None
        actions: list[Action] = []
        if self.handover is not None:
            actions.append(Report(Fact.HANDOVER_FINISHED, handover=self.handover.ended(result, reason)))
            self.handover = None
        self._rejected = self.binding.current
        self._put_current(address, now)
        return actions

    def _put_current(self, address: IPAddress, now: float) -> None:
        assert self.binding is not None
        self.binding = self.binding.moved_to(address)
        self._releases.forget(address)
        self.proven = self.silent = False
        self._filters.restart(now)
        self._changed(now)

    def _way_back(self) -> IPAddress | None:
        """The last accepted address, while it is not the current one and this host still has it."""
        assert self.binding is not None
        back = self.accepted
        return back if back is not None and back != self.binding.current and back in self._usable else None

    def _changed(self, now: float) -> None:
        self._renumber(self.sequence + 1, now)

    def _renumber(self, sequence: int, now: float) -> None:
        assert self.binding is not None
        self.sequence = sequence
        self.announced = self._disclosure.announcement(self.binding)
        self._nonce = self._token(NONCE_SIZE)
        self._challenge = None
        self._refresh_due = None
        self._exchange.begin(now)

    def _transmit(self, now: float) -> list[Action]:
        assert self.announced is not None
        began = self._exchange.began
        if not self.silent and began is not None and now - began >= self.settings.give_up:
            reason = f"no answer for {now - began:.0f} s"
            actions: list[Action] = [Report(Fact.PEER_SILENT, reason, self.handover)]
            if self._acknowledged < self.sequence and (back := self._way_back()) is not None:
                return [*actions, *self._go_back(back, Result.UNANSWERED, reason, now), *self._transmit(now)]
            self.silent = True
        else:
            actions = []
        handover = self.handover.id if self.handover is not None else bytes(HANDOVER_SIZE)
        if self._challenge is not None:
            actions.append(Send(PathResponse(self.sequence, handover, self._challenge)))
        else:
            change = AddressChange(
                sequence=self.sequence,
                handover=handover,
                nonce=self._nonce,
                current=self.announced.current,
                deprecated=self.announced.deprecated,
                method=self.settings.method,
                instance=self.settings.instance,
            )
            actions.append(Send(change))
        self._exchange.sent(now)
        if self._exchange.attempts >= QUICK_TRIES:
            # The acknowledgment of our response may be lost, or the challenge be an old one: ask anew.
            self._challenge = None
            if self.silent:
                self._exchange.postpone(now + self.settings.refresh)
        return actions

    def _refused(self, message: Acknowledgment, now: float) -> list[Action]:
        assert self.announced is not None
        self.refusal = f"{message.verdict.name.lower()}: {message.reason}"
        if message.verdict is Verdict.NOT_OWNED and self._disclosure.denied(self.announced):
            self._changed(now)
            return [Report(Fact.CHANGE_REFUSED_BY_PEER, f"{self.refusal}; asked again without it", self.handover)]
        refused = self.handover.ended(Result.REFUSED, self.refusal) if self.handover is not None else None
        report = Report(Fact.CHANGE_REFUSED_BY_PEER, self.refusal, refused)
        if (back := self._way_back()) is not None:
            return [report, *self._go_back(back, Result.REFUSED, self.refusal, now)]
        self.handover = refused
        self._exchange.postpone(now + self.settings.refresh)
        return [report]

    def _may_establish(self, pair: Pair, has_control: bool, peer_moving: bool, now: float) -> bool:
        filters = self._filters
        if not filters.may_begin(now):
            return False
        if not (self.settled or self.silent) and (has_control or not filters.missing_for_long(now)):
            return False  # without any control CHILD_SA, nothing but new filters can bring an answer
        if self.handover is None or self.handover.reached(Step.FILTERS):
            # The administrator's own connection is his to start and to stop.
            return pair.local in self.ours and filters.missing_for_long(now)
        # When both hosts move, one of them is enough, and both know which.
        return not peer_moving or int(pair.local) < int(pair.remote) or filters.missing_for_long(now)

    def _release(self, now: float, *, ready: bool) -> list[Action]:
        assert self.binding is not None
        if not ready:
            return []
        due = self._releases.advance(self.binding.deprecated, now, max(self.settings.grace, self._peer_grace))
        actions: list[Action] = []
        if any(isinstance(action, ReadUsage) for action in due):
            actions += self._step(Step.GRACE, now)
        actions += due
        if not self.binding.deprecated and self.handover is not None:
            actions += self._step(Step.RELEASED, now)
            actions.append(Report(Fact.HANDOVER_FINISHED, handover=self.handover.ended(Result.DONE)))
            self.handover = None
        return actions

    def _step(self, step: Step, now: float) -> list[Action]:
        if self.handover is None or self.handover.reached(step):
            return []
        self.handover = self.handover.with_step(step, now)
        return [Report(Fact.HANDOVER_STEP, step.value, self.handover)]
