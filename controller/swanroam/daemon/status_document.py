"""What the status document consists of: its type, and the source of its published schema (docs/schemas/).

In an annotation a text says what a key means, and an enumeration which words it can have.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypedDict

from swanroam.config import FilterMethod, TransportMethod
from swanroam.protocol.authorisation import Ground
from swanroam.protocol.handover import Cause, Result, Step

VERSION: Final = 1
"""Grows when a key changes its meaning or goes. New keys, and new words for results and reasons, may come any time."""


class BindingDocument(TypedDict):
    """The addresses of a host, as one peer knows it."""

    current: str
    deprecated: Annotated[list[str], "old addresses that are still in use"]


class AssociationDocument(TypedDict):
    """An IKE_SA with the peer."""

    ike_id: Annotated[int, "charon's unique identifier"]
    local: str
    remote: str
    control: Annotated[bool, "it has the control CHILD_SA"]
    complete: Annotated[bool, "it has all CHILD_SAs that belong to the peer"]


class CarriedDocument(TypedDict):
    """An address pair whose packets travel inside those of another."""

    local: str
    remote: str
    outer: Annotated[str, "the other pair"]
    control_only: Annotated[bool, "nothing but control datagrams yet: the new address is not proven"]


class TransportDocument(TypedDict):
    """The moving of sockets."""

    method: Annotated[str, "as configured", TransportMethod]
    moved: Annotated[int, "sockets moved since the daemon started"]
    moving: Annotated[bool, "some are being moved now"]


class ConnectionsDocument(TypedDict):
    """Connected sockets between the present addresses."""

    tcp: int
    udp: int


class SocketDocument(TypedDict):
    """A socket that is still on an old address."""

    protocol: str
    state: str
    local: Annotated[str, "address and port"]
    remote: Annotated[str, "address and port"]
    owners: Annotated[list[str], "programs, as name/pid"]
    stays: Annotated[str, "why; empty if it is not known yet"]


class HandoverDocument(TypedDict):
    """One change of address."""

    id: Annotated[str, "the same on both hosts, in logs, status and history"]
    old: str
    new: str
    sequence: int
    cause: Annotated[str, "why the address changed", Cause]
    result: Annotated[str, "how it stands, or ended", Result]
    detail: Annotated[str, "why; empty if there is nothing to say"]
    age: Annotated[float, "seconds since it started"]
    seconds: Annotated[dict[str, float], "for each step done, seconds from the start", Step]


class PeerDocument(TypedDict):
    """A configured peer."""

    name: str
    identity: Annotated[str, "its IKE identity"]
    connection: Annotated[str, "in swanctl.conf"]
    filters: Annotated[str, "as configured", FilterMethod]
    state: Annotated[str, "in words"]
    problem: Annotated[str, "what needs attention, with the remedy; empty if nothing does"]
    contradiction: Annotated[str, "what the kernel lacks of what charon says it has; empty if they agree"]
    managed: Annotated[bool, "it runs a controller: connections with it can move"]
    swanroam: Annotated[str, "the version of its controller; empty if it has not told it"]
    pinned: Annotated[str | None, "the address that `swanroam move` has ordered"]
    own: Annotated[BindingDocument | None, "our addresses; null: no IKE_SA"]
    peer: Annotated[BindingDocument | None, "its addresses; null: no IKE_SA"]
    proven: Annotated[str | None, "the last address at which it has proven to receive"]
    unproven: Annotated[str | None, "its current address, while that is not proven"]
    held_back: Annotated[int, "datagrams that were not sent to unproven addresses"]
    sought_at: Annotated[list[str] | None, "where it is looked for; null: it is not lost"]
    sequence: Annotated[int, "of our last address change"]
    last_sequence: Annotated[int, "of its last address change"]
    refused: Annotated[int, "its address changes that were refused since the daemon started"]
    refusals: Annotated[dict[str, int], "the same, by reason", Ground]
    guarded_after_release: Annotated[list[str], "addresses that it has left and that sockets here still use"]
    associations: list[AssociationDocument]
    carried: list[CarriedDocument]
    transport: TransportDocument
    connections: Annotated[ConnectionsDocument | None, "null: not asked for, or the kernel did not say"]
    sockets: Annotated[list[SocketDocument], "those that are still on old addresses"]
    handover: Annotated[HandoverDocument | None, "ours, that is going on"]
    peer_handover: Annotated[HandoverDocument | None, "the peer's, that is going on"]
    leaving: Annotated[bool, "not configured any more; it goes when nothing needs its old addresses"]
    settings_wait: Annotated[bool, "some of the settings in the file wait for the end of a handover"]
    history: Annotated[list[HandoverDocument], "finished since the daemon started, the latest last; at most 50"]


class FileDocument(TypedDict):
    """The configuration file, and whether it says what is at work."""

    file: str
    current: Annotated[bool, "it says what is at work; otherwise a reload or restart would change something"]
    wrong: Annotated[list[str], "what is wrong with it now"]
    refused: Annotated[list[str], "why the last reload took nothing over; empty if it did"]


class ChannelDocument(TypedDict):
    """The control channel."""

    dropped: Annotated[dict[str, int], "datagrams that were not read, by reason"]
    unsent: Annotated[dict[str, int], "datagrams that could not be sent, by reason"]


class CarrierDocument(TypedDict):
    """The carrier devices."""

    dropped: Annotated[dict[str, int], "packets that came out and were not admitted, by device"]


class StatusDocument(TypedDict):
    """What `swanroam status --json` prints."""

    version: Annotated[Literal[1], "of this document; grows when a key changes its meaning or goes"]
    swanroam: Annotated[str, "the daemon's version"]
    identity: Annotated[str, "this host's IKE identity"]
    uptime: Annotated[float, "seconds since the daemon started"]
    configuration: FileDocument
    addresses: Annotated[list[str], "this host's addresses that count"]
    charon_connected: bool
    problems: Annotated[list[str], "what needs attention, with the remedy; empty if all is fine"]
    control_channel: ChannelDocument
    carrier: CarrierDocument
    peers: list[PeerDocument]
