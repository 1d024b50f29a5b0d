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

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from swanroam.protocol.authorisation import Policy, Surroundings
from swanroam.protocol.binding import Binding
from swanroam.protocol.correspondent import Correspondent
from swanroam.protocol.events import (
    Action,
    AddressesRead,
    Association,
    AssociationsRead,
    Event,
    Fact,
    FiltersEstablished,
    FiltersFailed,
    FiltersReleased,
    MessageReceived,
    Report,
    StateApplied,
    TimerExpired,
    UsageRead,
)
from swanroam.protocol.handover import Handover
from swanroam.protocol.host_state import HostState, Pair, host_state
from swanroam.protocol.messages import (
    Acknowledgment,
    AddressChange,
    FiltersReply,
    FiltersRequest,
    Message,
    PathResponse,
)
from swanroam.protocol.mobile import Mobile, MobileSettings


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Everything that the configuration says about one peer. Times in seconds."""

    mobile: MobileSettings
    policy: Policy
    forget_after: float
    """A peer without IKE_SA and without a message for so long is no longer managed."""


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
            forget_after=settings.forget_after,
        )
        self.associations: tuple[Association, ...] = ()
        self.surroundings = Surroundings()
        self._remembered_peer: Binding | None = None
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
        """The peer's binding; while it has not registered, where charon has its IKE_SA."""
        if self.correspondent.binding is not None:
            return self.correspondent.binding
        if not self.associations:
            return self._remembered_peer
        newest = max(self.associations, key=lambda association: association.ike_id)
        return Binding(newest.pair.remote)

    @property
    def pair(self) -> Pair | None:
        """The two current addresses."""
        if self.own is None or self.peer is None:
            return None
        return Pair(self.own.current, self.peer.current)

    def feed(self, event: Event, now: float) -> list[Action]:
        """Takes one event; returns what is to be done, in order."""
        self._now = now
        actions = self._dispatch(event, now)
        pair = self.pair
        if pair is not None:
            actions += self.correspondent.advance(self.associations, pair.local, now)
            peer_moving = self.correspondent.handover is not None
            actions += self.mobile.advance(self.associations, pair.remote, peer_moving, now)
        return actions

    def wanted(self) -> HostState:
        """What this host's kernel should have for this peer."""
        own, peer = self.own, self.peer
        if not self.managed or own is None or peer is None:
            local = own.addresses if own is not None else ()
            return HostState(guarded=frozenset(Pair(a, b) for a in local for b in self.correspondent.lingering))
        registered = self.correspondent.binding is not None
        return host_state(
            own,
            peer,
            peer_proven=self.correspondent.proven if registered else peer.current,
            holds=self.settings.mobile.active,
            lingering=[Pair(a, b) for a in own.addresses for b in self.correspondent.lingering],
        )

    def deadline(self) -> float | None:
        """When to feed TimerExpired. Times that passed before the last event have had their chance."""
        times = [*self.mobile.deadlines(), *self.correspondent.deadlines()]
        return min((time for time in times if time > self._now), default=None)

    # --- a restart ----------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """What must survive a restart, as JSON can hold it."""
        mobile, correspondent = self.mobile, self.correspondent
        peer = self.peer
        return {
            "sequence": mobile.sequence,
            "managed": mobile.managed,
            "own": _binding_out(mobile.binding),
            "handover": None if mobile.handover is None else mobile.handover.name,
            "ours": sorted(map(str, mobile.ours)),
            "last_sequence": correspondent.last_sequence,
            "peer": _binding_out(correspondent.binding),
            "remembered_peer": _binding_out(peer),
            "proven": str(correspondent.proven) if correspondent.proven is not None else None,
            "lingering": sorted(map(str, correspondent.lingering)),
        }

    def restore(self, snapshot: dict[str, Any], now: float) -> None:
        """Takes over what an earlier run stored. Raises ValueError or KeyError when it is not a snapshot."""
        self._now = now
        mobile, correspondent = self.mobile, self.correspondent
        mobile.sequence = int(snapshot["sequence"])
        mobile.binding = _binding_in(snapshot["own"])
        mobile.managed = bool(snapshot["managed"]) and mobile.binding is not None
        if snapshot["handover"] is not None and mobile.binding is not None and mobile.binding.deprecated:
            old, new = mobile.binding.deprecated[-1], mobile.binding.current
            mobile.handover = Handover(bytes.fromhex(snapshot["handover"]), old, new, mobile.sequence, now)
        mobile.ours = {ip_address(text) for text in snapshot["ours"]}
        self._remembered_peer = _binding_in(snapshot["remembered_peer"])
        correspondent.restore(
            last_sequence=int(snapshot["last_sequence"]),
            binding=_binding_in(snapshot["peer"]),
            proven=ip_address(snapshot["proven"]) if snapshot["proven"] is not None else None,
            lingering=[ip_address(text) for text in snapshot["lingering"]],
            now=now,
        )

    # --- inside -------------------------------------------------------------------------------------------------

    def _dispatch(self, event: Event, now: float) -> list[Action]:
        match event:
            case AssociationsRead(associations):
                self.associations = associations
                self.mobile.associations_read(associations)
                return []
            case AddressesRead(preferred, usable):
                self.mobile.addresses_read(preferred, usable, now)
                return []
            case MessageReceived(message):
                return self._message(message, now)
            case FiltersEstablished(pair):
                self.mobile.filters_established(pair)
                return []
            case FiltersFailed(pair, reason):
                return self.mobile.filters_failed(pair, reason, now)
            case FiltersReleased(address):
                return self.mobile.filters_released(address, now)
            case UsageRead(address, sockets):
                own = self.own is not None and address in self.own.addresses
                half = self.mobile if own else self.correspondent
                return half.usage_read(address, sockets, now)
            case StateApplied():
                return self.mobile.state_applied(now)
            case TimerExpired():
                return []

    def _message(self, message: Message, now: float) -> list[Action]:
        match message:
            case AddressChange():
                return self.correspondent.changed(message, self.associations, self.surroundings, now)
            case Acknowledgment():
                return self.mobile.acknowledged(message, now)
            case PathResponse():
                return self.correspondent.path_response(message, now)
            case FiltersRequest() | FiltersReply():
                return [Report(Fact.UNEXPECTED_MESSAGE, type(message).__name__)]


def _binding_out(binding: Binding | None) -> list[str] | None:
    return None if binding is None else [str(address) for address in binding.addresses]


def _binding_in(addresses: list[str] | None) -> Binding | None:
    if addresses is None:
        return None
    current, *deprecated = (ip_address(text) for text in addresses)
    return Binding(current, tuple(deprecated))
