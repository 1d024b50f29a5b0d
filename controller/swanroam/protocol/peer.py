"""The machine of one peer: both halves, what they share, and what survives a restart.

Either host of a pair may move, or both at once, so every peer has both halves: `mobile` owns this host's binding,
`correspondent` knows the peer's. They share nothing but the pair of current addresses and charon's associations.

How it is driven (by the daemon, and by the simulation in the tests, in the same way):

    actions = machine.feed(event, now)
    store machine.snapshot()             the journal, before anything is done
    apply machine.wanted()               then machine.feed(StateApplied(), now) if that changed anything
    carry out the actions in order
    feed TimerExpired() at machine.deadline()
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from swanroam.protocol.authorisation import Surroundings, habitable
from swanroam.protocol.binding import Binding
from swanroam.protocol.correspondent import Correspondent
from swanroam.protocol.events import (
    Action,
    AddressesRead,
    Association,
    AssociationsRead,
    Event,
    Fact,
    FallbacksResolved,
    FiltersEstablished,
    FiltersFailed,
    FiltersReleased,
    MessageReceived,
    ReleaseFilters,
    Report,
    Send,
    StateApplied,
    TimerExpired,
    UsageRead,
)
from swanroam.protocol.filter_moves import FilterMoves
from swanroam.protocol.handover import Step
from swanroam.protocol.host_state import Crossing, HostState, Pair, host_state, pairs_between
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    Acknowledgment,
    AddressChange,
    FiltersReply,
    FiltersRequest,
    IPAddress,
    Message,
    PathResponse,
    TransferReply,
    TransferRequest,
    TransferStage,
)
from swanroam.protocol.mobile import Mobile
from swanroam.protocol.retransmission import Retransmission
from swanroam.protocol.settings import PeerSettings
from swanroam.protocol.snapshot import Snapshot
from swanroam.protocol.transfers import Transfers


class PeerMachine:
    """What this host knows, wants and does about one peer."""

    def __init__(self, settings: PeerSettings, token: Callable[[int], bytes], jitter: Callable[[], float]) -> None:
        self.settings = settings
        self.mobile = Mobile(settings.mobile, token, jitter)
        self.correspondent = Correspondent(
            settings.policy,
            token,
            grace=settings.mobile.grace,
            instance=settings.mobile.instance,
            software=settings.mobile.software,
        )

        def exchange() -> Retransmission:
            return Retransmission(settings.mobile.first_retransmit, settings.mobile.ceiling, jitter)

        self.filter_moves = FilterMoves(settings.mobile.method, self.mobile, exchange())
        self.transfers = Transfers(
            willing=settings.transport,
            stopped_share=settings.stopped_share,
            exchange=exchange(),
            token=token,
            jitter=jitter,
        )
        self.associations: tuple[Association, ...] = ()
        self.surroundings = Surroundings()
        self.software = ""
        """The version that the peer's controller has told last; empty: none."""
        self._remembered_peer: Binding | None = None
        self._present = 0.0
        """When there was last an IKE_SA with the peer, or a message of it."""
        self._now = 0.0

    @property
    def managed(self) -> bool:
        """The peer runs a controller: one of the two has registered with the other."""
        return self.mobile.managed or self.correspondent.binding is not None

    @property
    def own(self) -> Binding | None:
        return self.mobile.binding

    @property
    def peer(self) -> Binding | None:
        """The peer's binding; while it has not registered, where charon has or had its IKE_SA."""
        if self.correspondent.binding is not None:
            return self.correspondent.binding
        own = self.own
        fitting = [
            known for known in self.associations if own is None or known.pair.local.version == own.current.version
        ]
        if not fitting:
            return self._remembered_peer
        newest = max(fitting, key=lambda association: association.ike_id)
        return Binding(newest.pair.remote)

    @property
    def seen(self) -> frozenset[IPAddress]:
        """Where the peer has an IKE_SA, or had its last."""
        remembered = self._remembered_peer if self.correspondent.binding is None else None
        remotes = [association.pair.remote for association in self.associations]
        return frozenset((*remotes, *(remembered.addresses if remembered is not None else ())))

    @property
    def pair(self) -> Pair | None:
        """The two current addresses; None when one is not known, or they are of two families (charon can do that)."""
        own, peer = self.own, self.peer
        if own is None or peer is None or own.current.version != peer.current.version:
            return None
        return Pair(own.current, peer.current)

    def feed(self, event: Event, now: float) -> list[Action]:
        """Takes one event; returns what is to be done, in order."""
        self._now = now
        if self.associations or isinstance(event, AssociationsRead | MessageReceived):
            self._present = now
        lingering = set(self.correspondent.lingering)
        actions = self.correspondent.expire(now)
        actions += self._dispatch(event, now)
        if isinstance(event, MessageReceived):
            self.correspondent.heard(event.message)
        if self.managed and not self.associations and now >= self._present + self.settings.forget_after:
            actions += self._forget(now)
        self._remember(now)
        pair = self.pair
        if pair is not None:
            actions += self.correspondent.advance(self.associations, pair.local, now)
            peers = self.correspondent.handover
            peer_moving = peers is not None and not peers.reached(Step.FILTERS)
            if self.transfers.led_through():
                actions += self.mobile.transported(now)
            if self.transfers.followed_through(pair):
                actions += self.correspondent.transported(now)
            advanced = self.mobile.advance(
                self.filter_moves.settled(self.associations, pair),
                pair.remote,
                now,
                peer_moving=peer_moving,
                peer_proven=self.correspondent.unproven is None,
                transferring=self.transfers.busy,
            )
            half = self.correspondent
            sought = self.mobile.seek(half.binding, now, certain=half.answerable)
            actions += self.filter_moves.lead([*advanced, *sought], pair, self.associations, now)
            actions += self._transferred(pair, now)
            if self.crossing is not Crossing.NONE:
                released = set(self.correspondent.lingering) - lingering
                actions += [ReleaseFilters(address) for address in sorted(released, key=str)]
        return [
            action for action in actions if not isinstance(action, Send) or self.correspondent.affords(action.message)
        ]

    @property
    def crossing(self) -> Crossing:
        """Method migrate: how far this host's filters have come to the current pair."""
        pair = self.pair
        return Crossing.NONE if pair is None else self.filter_moves.crossing(pair)

    def wanted(self) -> HostState:
        """What this host's kernel should have for this peer."""
        own, peer = self.own, self.peer
        if not self.managed or own is None or peer is None or self.pair is None:
            local = own.addresses if own is not None else ()
            return HostState(guarded=frozenset(pairs_between(local, self.correspondent.lingering)))
        registered = self.correspondent.binding is not None
        state = host_state(
            own,
            peer,
            peer_proven=self.correspondent.proven if registered else peer.current,
            holds=self.settings.mobile.active,
            vacated=self._vacated(own),
            lingering=pairs_between(own.addresses, self.correspondent.lingering),
            associated=self.correspondent.associated(own.current, self.associations),
            crossing=self.crossing,
        )
        return self.mobile.seeker.applied_to(state, own)

    def _vacated(self, own: Binding) -> Collection[IPAddress]:
        """Old addresses that another host may have, because what still uses them here stays with them."""
        if not self.transfers.settled(self._now):
            return ()
        return own.deprecated if self.transfers.led_through() else self.mobile.waiting

    def deadline(self) -> float | None:
        """When to feed TimerExpired. Times that passed before the last event have had their chance."""
        times = [*self.mobile.deadlines(), *self.correspondent.deadlines()]
        times += [*self.filter_moves.deadlines(), *self.transfers.deadlines()]
        if self.managed and not self.associations:
            times.append(self._present + self.settings.forget_after)
        return min((time for time in times if time > self._now), default=None)

    def counterparts(self, address: IPAddress) -> frozenset[IPAddress]:
        """The addresses on the other side of the sockets to be counted for ReadUsage of an address."""
        own, peer = self.own, self.peer
        if own is not None and address in own.addresses:
            remotes = peer.addresses if peer is not None else ()
            return frozenset((*remotes, *self.correspondent.lingering))
        return frozenset(own.addresses if own is not None else ())

    # --- a restart ----------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """What must survive a restart, as JSON can hold it."""
        mobile, correspondent = self.mobile, self.correspondent
        return Snapshot(
            sequence=mobile.sequence,
            managed=mobile.managed,
            own=mobile.binding,
            handover=None if mobile.handover is None else mobile.handover.id,
            ours=tuple(mobile.ours),
            accepted=mobile.announcer.accepted,
            disclosed=tuple(mobile.announcer.disclosure.disclosed),
            last_sequence=correspondent.last_sequence,
            peer=correspondent.binding,
            remembered_peer=self.peer,
            proven=correspondent.proven,
            lingering=correspondent.lingering,
            unannounced=correspondent.unannounced,
            migrated=None if self.crossing is Crossing.NONE else self.pair,
            crossing=self.crossing,
            led=self.pair is not None and self.filter_moves.leader.crossing(self.pair) is not Crossing.NONE,
        ).to_json()

    def restore(self, stored: dict[str, Any], now: float) -> None:
        """Takes over what an earlier run stored. Raises ValueError when it is not a snapshot; then nothing changed."""
        snapshot = Snapshot.from_json(stored)
        self._now = self._present = now
        self._remembered_peer = snapshot.remembered_peer
        self.mobile.restore(snapshot, now)
        self.correspondent.restore(snapshot, now)
        self.filter_moves.restore(snapshot, now)

    # --- inside -------------------------------------------------------------------------------------------------

    def _dispatch(self, event: Event, now: float) -> list[Action]:
        match event:
            case AssociationsRead(associations):
                self.filter_moves.associations_read(self.associations, associations)
                self.associations = associations
                self.mobile.associations_read(associations, now)
                return []
            case AddressesRead():
                self.mobile.addresses_read(event, now)
                return []
            case MessageReceived(message):
                return self._message(message, now)
            case FiltersEstablished(pair):
                return self.filter_moves.established(pair, now)
            case FiltersFailed(pair, reason):
                return self.filter_moves.failed(pair, reason, now)
            case FiltersReleased(address):
                self.mobile.filters_released(address, now)
                return []
            case FallbacksResolved(addresses):
                possible = [
                    address for address in addresses if habitable(address, self.settings.policy, self.surroundings)
                ]
                return self.mobile.seeker.resolved(possible, now)
            case UsageRead(address, sockets):
                own = self.own is not None and address in self.own.addresses
                half = self.mobile if own else self.correspondent
                return half.usage_read(address, sockets, now)
            case StateApplied():
                return self.mobile.state_applied(now)
            case TimerExpired():
                return []
            case _:
                return self.transfers.feed(event, now)

    def _message(self, message: Message, now: float) -> list[Action]:
        if isinstance(message, AddressChange | Acknowledgment):
            self.software = message.software or ""
        match message:
            case AddressChange():
                before = self.correspondent.peer_instance
                actions = self.correspondent.changed(message, self.associations, self.surroundings, now)
                if before != self.correspondent.peer_instance:
                    self.mobile.peer_started(now, again=before != b"")
                    self.transfers.peer_started()
                return actions
            case Acknowledgment():
                return self.mobile.acknowledged(message, now)
            case PathResponse():
                return self.correspondent.path_response(message, self.surroundings, now)
            case FiltersRequest():
                return self._requested(message)
            case FiltersReply():
                return self._replied(message, now)
            case TransferRequest():
                return self._transfer_requested(message, now)
            case TransferReply():
                return self.transfers.replied(message, now)

    def _transferred(self, pair: Pair, now: float) -> list[Action]:
        """Moves sockets on old pairs, once the current one can take them."""
        own, peer = self.own, self.peer
        assert own is not None
        assert peer is not None
        mobile = self.mobile
        return self.transfers.advance(
            own,
            peer,
            ready=mobile.ready and self.correspondent.unproven is None and not mobile.counting,
            sequence=mobile.sequence,
            handover=mobile.handover.id if mobile.handover is not None else bytes(HANDOVER_SIZE),
            now=now,
        )

    def _transfer_requested(self, message: TransferRequest, now: float) -> list[Action]:
        half, own = self.correspondent, self.own
        if own is None or half.binding is None:
            return [Report(Fact.UNEXPECTED_MESSAGE, "a transfer request before any registration")]
        if self.mobile.counting and message.stage is not TransferStage.PREPARE:
            return []  # what is taken apart now would be missing in the count; it will ask again
        newest = message.sequence == half.last_sequence
        return self.transfers.requested(message, own, half.binding, now, answerable=half.answerable, newest=newest)

    def _requested(self, message: FiltersRequest) -> list[Action]:
        half, pair = self.correspondent, self.pair
        if pair in (None, self.filter_moves.anew) or not half.answerable or message.sequence != half.last_sequence:
            return [Report(Fact.UNEXPECTED_MESSAGE, "a filters request that is not about the announced address")]
        return self.filter_moves.follower.requested(message, pair)

    def _replied(self, message: FiltersReply, now: float) -> list[Action]:
        if message.sequence != self.mobile.sequence:
            return []
        return self.filter_moves.replied(message, self.pair, now)

    def _forget(self, now: float) -> list[Action]:
        if self._remembered_peer is not None:
            self.correspondent.linger(self._remembered_peer.current, now)
        self.correspondent.forget(now)
        self.mobile.forget()
        self.transfers.forget(now)
        return [Report(Fact.PEER_FORGOTTEN, f"no IKE_SA and no message for {self.settings.forget_after:.0f} s")]

    def _remember(self, now: float) -> None:
        """An address that the peer has left stays guarded, whether it was told or just seen in charon."""
        before, after = self._remembered_peer, self.peer
        if before is not None and after is not None and self.managed:
            for address in before.addresses:
                if address not in after.addresses:
                    self.correspondent.linger(address, now)
        self._remembered_peer = after
