"""What goes into a peer's machine (events) and what comes out of it (actions). Data only."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from swanroam.protocol.handover import Cause, Handover
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress, Message
from swanroam.protocol.transfer import TransferEvent, TransferOrder


@dataclass(frozen=True, slots=True)
class Association:
    """One established IKE_SA with the peer's identity, as charon reports it."""

    pair: Pair
    ike_id: int
    control: bool
    """Its control CHILD_SA is installed."""
    complete: bool
    """All CHILD_SAs that belong to the peer are installed, in the mode that they must have."""


@dataclass(frozen=True, slots=True)
class AssociationsRead:
    """All IKE_SAs with the peer's identity, after something changed in charon."""

    associations: tuple[Association, ...]


@dataclass(frozen=True, slots=True)
class AddressesRead:
    """This host's addresses changed. `preferred` is None while no address is usable."""

    preferred: IPAddress | None
    usable: frozenset[IPAddress]
    """Addresses on real interfaces that count; not those that are only held on the carrier."""
    cause: Cause = Cause.UNKNOWN
    """Why `preferred` is not the current one, if it is not."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message of this peer: the daemon has checked that its identity owns the inner address it came from."""

    message: Message


@dataclass(frozen=True, slots=True)
class FiltersEstablished:
    """The filters for a pair are in place on this host: charon and kernel agree."""

    pair: Pair


@dataclass(frozen=True, slots=True)
class FiltersFailed:
    """They are not; the next try is the machine's business."""

    pair: Pair
    reason: str


@dataclass(frozen=True, slots=True)
class FiltersReleased:
    """No filter of an address is left on this host."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class UsageRead:
    """How many sockets of this host use an address (own or the peer's) with this peer."""

    address: IPAddress
    sockets: int


@dataclass(frozen=True, slots=True)
class FallbacksResolved:
    """Where the peer may be found, in the order of the configuration. Nothing of it is proven."""

    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class StateApplied:
    """The kernel has the wanted state."""


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """The machine's deadline has passed."""


Event = (
    AssociationsRead
    | AddressesRead
    | MessageReceived
    | FiltersEstablished
    | FiltersFailed
    | FiltersReleased
    | UsageRead
    | FallbacksResolved
    | StateApplied
    | TimerExpired
    | TransferEvent
)


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the peer over the control channel."""

    message: Message
    attempt: int = field(default=1, compare=False)
    """Above 1: the same was sent before, and no answer has come."""


@dataclass(frozen=True, slots=True)
class EstablishFilters:
    """Put filters for a pair in place, beside those of `old`."""

    pair: Pair
    old: Pair


@dataclass(frozen=True, slots=True)
class MigrateFilters:
    """Move the data CHILD_SAs, the control CHILD_SA, or both, to a pair, keys kept."""

    pair: Pair
    data: bool
    control: bool


@dataclass(frozen=True, slots=True)
class ReleaseFilters:
    """Terminate every IKE_SA with this peer that has the address, own or the peer's."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class ReadUsage:
    """Count the sockets that use an address with this peer."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class EndSockets:
    """End the sockets that still use an address with this peer, with a reset: their time is over."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class ResolveFallbacks:
    """Find out the addresses of one IP version at which the peer may be."""

    version: int


class Fact(enum.Enum):
    """What a report tells. The values are the log events."""

    PEER_REGISTERED = "peer_registered"
    PEER_SILENT = "peer_silent"
    PEER_SOUGHT = "peer_sought"
    PEER_FOUND = "peer_found"
    PEER_NOT_FOUND = "peer_not_found"
    HANDOVER_STARTED = "handover_started"
    HANDOVER_STEP = "handover_step_finished"
    HANDOVER_FINISHED = "handover_finished"
    CHANGE_REFUSED_BY_PEER = "address_change_refused_by_peer"
    CHANGE_ACCEPTED = "address_change_accepted"
    CHANGE_REFUSED = "address_change_refused"
    CHANGE_STALE = "address_change_stale"
    PATH_PROVEN = "path_proven"
    PATH_NOT_PROVEN = "path_not_proven"
    FILTERS_FAILED = "filters_failed"
    ADDRESS_RELEASED = "address_released"
    RELEASE_WAITS = "release_waits_for_sockets"
    SOCKETS_ENDED = "sockets_ended"
    UNEXPECTED_MESSAGE = "unexpected_message"
    PEER_FORGOTTEN = "peer_forgotten"


@dataclass(frozen=True, slots=True)
class Report:
    """Something an operator wants to know."""

    fact: Fact
    detail: str = ""
    handover: Handover | None = None
    reason: str = ""
    """In one word, for whoever counts."""


Action = (
    Send
    | EstablishFilters
    | MigrateFilters
    | ReleaseFilters
    | ReadUsage
    | EndSockets
    | ResolveFallbacks
    | TransferOrder
    | Report
)
