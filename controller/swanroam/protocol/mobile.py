"""The half of the machine that owns this host's binding: the role of the mobile host towards one peer.

Theory of operation
===================

The half holds what should be true (`binding`, with a `sequence` that grows at each change) and what is known to be
true at the peer (`acknowledged`, `proven`) and in charon (`associations`). It does not walk through states; after
every event `advance` looks at the difference and does the first thing that is missing:

    the peer was told of another binding ............... a new sequence, to be acknowledged
    the peer has not acknowledged the sequence ......... send the address change, retransmit
    a challenge is unanswered ........................... send the path response, retransmit
    no filters for (own current, peer's current) ........ establish them
    another address is preferred ....................... move: a new binding, a new sequence
    the peer can't be told where we are ................ look for it elsewhere (`seeker`)
    sockets on a deprecated address ..................... move them (`leader`)
    a deprecated address is past its grace period ....... count its sockets; with none: release its filters
    its filters are gone, and still no socket uses it ... take it out of the binding

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

from swanroam.protocol.announcer import Announcer, Answer
from swanroam.protocol.binding import Binding
from swanroam.protocol.events import (
    Action,
    AddressesRead,
    Association,
    EndSockets,
    EstablishFilters,
    Fact,
    ReadUsage,
    Report,
    Send,
)
from swanroam.protocol.filters import Filters
from swanroam.protocol.handover import Cause, Handover, Result, Step
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import HANDOVER_SIZE, Acknowledgment, IPAddress, Verdict
from swanroam.protocol.release import Releases
from swanroam.protocol.seeker import Seeker
from swanroam.protocol.settings import MobileSettings
from swanroam.protocol.snapshot import Snapshot


class Mobile:
    """Our own binding, as the peer is to know it."""

    def __init__(self, settings: MobileSettings, token: Callable[[int], bytes], jitter: Callable[[], float]) -> None:
        self.settings = settings
        self.binding: Binding | None = None
        self.announcer = Announcer(settings, token, jitter)
        self.managed = False
        """The peer has acknowledged us once: it runs a controller and answers for this host's addresses."""
        self.handover: Handover | None = None
        self.refusal = ""
        self.ready = False
        """The current pair is proven and has its filters: sockets can move there, and old addresses go."""
        self._token = token
        self._jitter = jitter
        self._preferred: IPAddress | None = None
        self._cause = Cause.UNKNOWN
        self._rejected: IPAddress | None = None
        """The preferred address, when it failed: not tried again until another is preferred, IKE gets through from it,
        or the current one goes."""
        self._usable: frozenset[IPAddress] = frozenset()
        self._filters = Filters()
        self._releases = Releases(settings.end_after)
        self.seeker = Seeker(jitter)

    @property
    def sequence(self) -> int:
        return self.announcer.sequence

    @property
    def silent(self) -> bool:
        """The peer has not answered for long."""
        return self.announcer.silent

    @property
    def settled(self) -> bool:
        """The peer knows our binding, and our current address is proven to it."""
        return self.announcer.settled

    @property
    def waiting(self) -> dict[IPAddress, int]:
        """Deprecated addresses past their grace period, with the number of sockets that keep them."""
        return self._releases.waiting

    @property
    def counting(self) -> bool:
        """Sockets of a deprecated address are being counted."""
        return self._releases.counting

    @property
    def ours(self) -> set[IPAddress]:
        """Own addresses whose filters are this controller's to make: the administrator has none there."""
        return self._filters.ours

    def reconfigure(self, settings: MobileSettings) -> None:
        """Other settings. Not to be called with another `active` or `method` while a move of ours is unfinished."""
        resigns = self.settings.active and not settings.active
        self.settings = settings
        self.announcer.reconfigure(settings)
        self._releases.reconfigure(settings.end_after)
        if resigns:
            self.forget()

    def restore(self, snapshot: Snapshot, now: float) -> None:
        """Takes over what an earlier run knew."""
        binding = self.binding = snapshot.own
        self.announcer.restore(snapshot)
        self.managed = snapshot.managed and binding is not None
        self.ours.update(snapshot.ours)
        if binding is not None and snapshot.handover is not None and binding.deprecated:
            old = binding.deprecated[-1]
            self.handover = Handover(snapshot.handover, old, binding.current, snapshot.sequence, now)

    def forget(self) -> None:
        """The peer is gone. Our addresses stay, for the guards."""
        self.managed = self.ready = False
        self.handover = None
        self.announcer.forget()
        self._filters = Filters()
        self._releases.clear()
        self.seeker = Seeker(self._jitter)

    # --- what came in -----------------------------------------------------------------------------------------

    def addresses_read(self, event: AddressesRead, now: float) -> None:
        appeared = event.usable - self._usable
        self._usable = event.usable
        self._cause = event.cause
        if event.preferred != self._preferred:
            self._preferred = event.preferred
            self._rejected = None
        if self.binding is not None and self.binding.current in appeared:
            self.announcer.hasten(now)
        if self.binding is not None and self.binding.current not in event.usable:
            self._rejected = None

    def associations_read(self, associations: Collection[Association], now: float) -> None:
        """Until the peer manages us, our binding is simply where charon has its IKE_SA."""
        before = self.announcer.disclosure.anchored
        self.announcer.associations_read(associations, now)
        if self._rejected in self.announcer.disclosure.anchored - before:
            self._rejected = None  # IKE gets through there
        if not self.managed and associations:
            newest = max(associations, key=lambda association: association.ike_id).pair.local
            if self.binding is None or not self.binding.deprecated:
                self.binding = Binding(newest)
            else:
                self.binding = self.binding.moved_to(newest)  # managed once, then forgotten: guard what was guarded

    def peer_started(self, now: float, *, again: bool) -> None:
        """Its controller is a new one, the first that was heard of or not (`again`)."""
        self.announcer.peer_started(now, again=again)

    def acknowledged(self, message: Acknowledgment, now: float) -> list[Action]:
        if self.binding is None:
            return []
        answer = self.announcer.answered(message, self.binding, now)
        if answer is Answer.REFUSED:
            return self._refused(message, now)
        if answer is not Answer.ACCEPTED:
            return []
        actions: list[Action] = []
        if not self.managed:
            self.managed = True
            actions.append(Report(Fact.PEER_REGISTERED, f"own address {self.binding.current}"))
        self.refusal = ""
        if self.handover is not None and self.handover.result is Result.REFUSED:
            self.handover = self.handover.ended(Result.RUNNING)
        actions += self._step(Step.ACKNOWLEDGED, now)
        return actions + (self._step(Step.PROVEN, now) if self.settled else [])

    def filters_established(self, pair: Pair, now: float) -> list[Action]:
        found = self.seeker.established(pair, now)
        self._filters.established(pair, now)
        return found or []

    def filters_failed(self, pair: Pair, reason: str, now: float) -> list[Action]:
        sought = self.seeker.failed(pair, reason, now)
        if sought is not None:
            return sought
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
            return [Report(Fact.ADDRESS_RELEASED, str(address), self.handover)]
        if first and address in self.waiting:
            detail = f"{sockets} socket{'s' if sockets != 1 else ''} on {address}"
            if self.handover is not None:
                self.handover = self.handover.ended(Result.CARRYING, detail)
            actions.append(Report(Fact.RELEASE_WAITS, detail, self.handover))
        if any(isinstance(action, EndSockets) for action in actions):
            actions.append(Report(Fact.SOCKETS_ENDED, f"{sockets} on {address}", self.handover))
        return actions

    def state_applied(self, now: float) -> list[Action]:
        return self._step(Step.DEPRECATED, now)

    # --- what is missing --------------------------------------------------------------------------------------

    def advance(
        self,
        associations: Collection[Association],
        peer_current: IPAddress,
        now: float,
        *,
        peer_moving: bool,
        peer_proven: bool,
        transferring: bool,
    ) -> list[Action]:
        """The next thing to do, given what is known now. See the theory above.

        `peer_proven`: so is the peer's current address, and IKE may begin something there;
        `transferring`: sockets are being moved, and so can't be counted.
        """
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
        if self.announcer.outdated(self.binding):
            self.announcer.announce(self.binding, now)
        has_control = any(association.control for association in associations)
        if self.announcer.due(now) and has_control:
            actions += self._transmit(now)
        pair = Pair(self.binding.current, peer_current)
        terminating = self._releases.terminating(pair.local, now)
        complete = not terminating and any(
            association.pair == pair and association.complete for association in associations
        )
        self._filters.looked(now, complete=complete)
        if complete:
            actions += self._step(Step.FILTERS, now) if self.settled else []
        elif peer_proven and not terminating and self._may_establish(pair, has_control, peer_moving, now):
            self._filters.begin(pair)
            old = Pair(self.binding.deprecated[-1] if self.binding.deprecated else pair.local, peer_current)
            actions.append(EstablishFilters(pair, old))
        self.ready = complete and self.settled
        actions += self._release(now, ready=self.ready and not transferring)
        return actions

    def seek(self, peer: Binding | None, now: float, *, certain: bool) -> list[Action]:
        """Looks for a peer that has moved while we did. `peer`: its binding; None if it does not tell its addresses;
        `certain`: that is what it announced last, and proven."""
        if self.binding is None or peer is None or not self.settings.active:
            return []
        current = self.binding.current
        lost = self.managed and self.announcer.certain != current and current in self._usable
        actions = self.seeker.settled(self.binding, peer) if self.ready and certain else []
        return actions + self.seeker.advance(self.binding, peer, self.announcer.unheard_since if lost else None, now)

    def transported(self, now: float) -> list[Action]:
        """The sockets that can move have moved."""
        return self._step(Step.TRANSPORT, now)

    def deadlines(self) -> list[float]:
        """Times at which `advance` may have something to do."""
        return [
            *self.announcer.deadlines(),
            *self._filters.deadlines(),
            *self._releases.deadlines(),
            *self.seeker.deadlines(),
        ]

    # --- inside -----------------------------------------------------------------------------------------------

    def _move(self, address: IPAddress, now: float) -> list[Action]:
        assert self.binding is not None
        actions: list[Action] = []
        if self.handover is not None:
            overtaken = self.handover.ended(Result.OVERTAKEN, f"by a move to {address}")
            actions.append(Report(Fact.HANDOVER_FINISHED, handover=overtaken))
        old = self.binding.current
        if address not in self.announcer.disclosure.anchored:
            self.ours.add(address)
        self._put_current(address, now)
        self.handover = Handover(self._token(HANDOVER_SIZE), old, address, self.sequence, now, cause=self._cause)
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
        self._filters.restart(now)
        self.announcer.announce(self.binding, now, moved=True)

    def _way_back(self) -> IPAddress | None:
        """The last accepted address, while it is not the current one and this host still has it."""
        assert self.binding is not None
        back = self.announcer.accepted
        return back if back is not None and back != self.binding.current and back in self._usable else None

    def _transmit(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if (seconds := self.announcer.unanswered(now)) is not None:
            reason = f"no answer for {seconds:.0f} s"
            actions.append(Report(Fact.PEER_SILENT, reason, self.handover))
            if not self.announcer.acknowledged and (back := self._way_back()) is not None:
                actions += self._go_back(back, Result.UNANSWERED, reason, now)
        handover = self.handover.id if self.handover is not None else bytes(HANDOVER_SIZE)
        return [*actions, Send(self.announcer.transmit(handover, now), self.announcer.transmissions)]

    def _refused(self, message: Acknowledgment, now: float) -> list[Action]:
        assert self.binding is not None
        announced = self.announcer.announced
        assert announced is not None
        self.refusal = f"{message.verdict.name.lower()}: {message.reason}"
        if message.verdict is Verdict.NOT_OWNED and self.announcer.disclosure.denied(announced):
            return [Report(Fact.CHANGE_REFUSED_BY_PEER, f"{self.refusal}; asked again without it", self.handover)]
        refused = self.handover.ended(Result.REFUSED, self.refusal) if self.handover is not None else None
        report = Report(Fact.CHANGE_REFUSED_BY_PEER, self.refusal, refused)
        if (back := self._way_back()) is not None:
            return [report, *self._go_back(back, Result.REFUSED, self.refusal, now)]
        self.handover = refused
        self.announcer.refused(now)
        return [report]

    def _may_establish(self, pair: Pair, has_control: bool, peer_moving: bool, now: float) -> bool:
        filters = self._filters
        if not filters.may_begin(now):
            return False
        if not (self.settled or self.silent) and (has_control or not filters.missing_for_long(now)):
            return False  # without any control CHILD_SA, nothing but new filters can bring an answer
        if self.handover is None or self.handover.reached(Step.FILTERS):
            # The administrator's own connection is his to start and to stop; not so when all that is left of it is on
            # old addresses, which wait for filters at the current one.
            left = self.announcer.disclosure.anchored & set(self.binding.deprecated if self.binding else ())
            return (pair.local in self.ours or bool(left)) and filters.missing_for_long(now)
        # When both hosts move, one of them is enough, and both know which.
        return not peer_moving or int(pair.local) < int(pair.remote) or filters.missing_for_long(now)

    def _release(self, now: float, *, ready: bool) -> list[Action]:
        assert self.binding is not None
        if not ready:
            return []
        due = self._releases.advance(self.binding.deprecated, now, max(self.settings.grace, self.announcer.peer_grace))
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
