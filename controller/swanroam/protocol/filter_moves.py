"""Method migrate between this host and one peer: both roles, and when filters are made anew after all.

`migration` has the theory. What the peer's machine would do to get filters at a pair, which is to let IKE establish
them, is turned into leading the peer through moving those that there are. New ones are made only where there is nothing
to be moved or nobody to be led; what has been made anew has not moved, and counts as it is.
"""

from __future__ import annotations

from dataclasses import replace

from swanroam.protocol.events import Action, Association, EstablishFilters
from swanroam.protocol.handover import Step
from swanroam.protocol.host_state import Crossing, Pair
from swanroam.protocol.messages import HANDOVER_SIZE, FiltersReply, Method
from swanroam.protocol.migration import Follower, Leader, made_anew
from swanroam.protocol.mobile import Mobile
from swanroam.protocol.retransmission import Retransmission
from swanroam.protocol.snapshot import Snapshot


class FilterMoves:
    """With another method nothing is led, though a peer may still lead."""

    def __init__(self, method: Method, mobile: Mobile, exchange: Retransmission) -> None:
        self.leader = Leader(exchange)
        self.follower = Follower()
        self.anew: Pair | None = None
        """For which one of the hosts has made new filters."""
        self._method = method
        self._mobile = mobile
        self._renegotiated: Pair | None = None
        """The pair for which new filters have to be made after all."""

    def reconfigure(self, method: Method, first: float, ceiling: float) -> None:
        """Another method for the next move, and other pauses (seconds) between retransmissions."""
        self._method = method
        self.leader.exchange.reconfigure(first, ceiling)

    def crossing(self, pair: Pair) -> Crossing:
        """How far this host's filters have come to the pair."""
        own = self.leader.crossing(pair)
        return own if own is not Crossing.NONE else self.follower.crossing(pair)

    def restore(self, snapshot: Snapshot, now: float) -> None:
        """Takes over what an earlier run had reached."""
        if snapshot.migrated is not None and snapshot.led:
            self.leader.restore(snapshot.migrated, snapshot.crossing, now)
        elif snapshot.migrated is not None:
            self.follower.restore(snapshot.migrated, snapshot.crossing)

    def associations_read(self, before: tuple[Association, ...], after: tuple[Association, ...]) -> None:
        self.anew = made_anew(before, after, self.anew)

    def settled(self, associations: tuple[Association, ...], pair: Pair) -> tuple[Association, ...]:
        """An IKE_SA is at the pair with its first CHILD_SA; the filters are when both hosts say so."""
        handover = self._mobile.handover
        moving = handover is not None and not handover.reached(Step.FILTERS)
        if self._method is not Method.MIGRATE or not moving:
            return associations
        led = self.leader.pair == pair and self.leader.finished
        if led or self.follower.crossing(pair) is Crossing.DONE or pair in (self._renegotiated, self.anew):
            return associations
        return tuple(replace(association, complete=False) for association in associations)

    def lead(
        self, actions: list[Action], pair: Pair, associations: tuple[Association, ...], now: float
    ) -> list[Action]:
        """What would establish filters leads the peer through moving them instead; and what is due in that."""
        if self.leader.overtaken(pair, self.anew):
            self.leader.reset()
        if self.leader.pair is not None and self.leader.busy and not associations:
            actions += self._mobile.filters_failed(self.leader.pair, "no IKE_SA is left to migrate", now)
            self.leader.reset()
        if self._method is Method.MIGRATE:
            for action in actions:
                if not isinstance(action, EstablishFilters):
                    continue
                if associations and self._can_migrate(action.pair):
                    self._renegotiated = None
                    self.leader.begin(action.pair, now)
                    actions = [other for other in actions if other is not action]
                else:
                    self._renegotiated = action.pair
        handover = self._mobile.handover.id if self._mobile.handover is not None else bytes(HANDOVER_SIZE)
        return [*actions, *self.leader.transmit(self._mobile.sequence, handover, now)]

    def deadlines(self) -> list[float]:
        """Times at which `lead` may have something to do."""
        return [self.leader.exchange.due] if self.leader.exchange.due is not None else []

    # --- what came in -------------------------------------------------------------------------------------------

    def established(self, pair: Pair, now: float) -> list[Action]:
        """Filters stand at the pair, on this host: those that were moved, or new ones."""
        if self.follower.waiting_for(pair):
            return self.follower.established(pair)
        migrating = self._method is Method.MIGRATE and pair != self._renegotiated
        if self.leader.established(pair, now) or (migrating and pair != self._mobile.seeker.trying):
            return []  # the latter of a move that was overtaken
        return self._mobile.filters_established(pair, now)

    def failed(self, pair: Pair, reason: str, now: float) -> list[Action]:
        """They do not."""
        if self.follower.waiting_for(pair):
            return self.follower.failed(pair, reason)
        self.leader.failed(pair)
        return self._mobile.filters_failed(pair, reason, now)

    def replied(self, message: FiltersReply, pair: Pair | None, now: float) -> list[Action]:
        """By the peer, to the newest request."""
        actions, problem = self.leader.replied(message)
        if self.leader.pair is not None and self.leader.finished:
            self._mobile.filters_established(self.leader.pair, now)
        if problem and pair is not None:
            actions += self._mobile.filters_failed(pair, problem, now)
        return actions

    # --- inside -------------------------------------------------------------------------------------------------

    def _can_migrate(self, pair: Pair) -> bool:
        """There is a peer that answers, and filters that have not moved. Otherwise only IKE can help, with new ones."""
        finished = self.leader.pair == pair and self.leader.finished
        anew = self.anew is not None and self.anew.local == pair.local  # which may not have been announced yet
        return self._mobile.settled and not (finished or anew)
