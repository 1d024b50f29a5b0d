"""Messages between two controllers, as data. Their encoding is `codec`'s business."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address

MAX_DEPRECATED = 8
"""Deprecated addresses that one message may name."""
MAX_CONNECTIONS = 64
"""Connections that one transfer may name."""
MAX_SEQUENCE = 2**63
"""A sequence grows by one at a change; one above this is nobody's, and would leave no room to answer it."""
MAX_GRACE_MS = 2**32 - 1
HANDOVER_SIZE = 8
NONCE_SIZE = 16
INSTANCE_SIZE = 8


class Verdict(enum.IntEnum):
    """The correspondent's answer to an address change, after RFC 4555 §3.5 and RFC 6275 §6.1.8."""

    ACCEPTED = 0
    STALE = 1  # a message with a higher sequence was accepted before
    NOT_OWNED = 2  # a deprecated address does not belong to the sender
    NOT_ALLOWED = 3  # policy does not let the sender use the current address
    IN_USE = 4  # the current address is ours or another peer's
    RATE_LIMITED = 5  # too many changes; ask again later
    FAILED = 6  # the correspondent could not carry it out; the reason says why


class Method(enum.IntEnum):
    """How the security filters get to the new address."""

    RENEGOTIATE = 0
    MIGRATE = 1


class Stage(enum.IntEnum):
    """What a filters request of method migrate asks for, and a reply reports."""

    MOVE = 1  # move your filters to the announced addresses
    FINISH = 2  # ours have moved too: what was kept for the crossing may go


class Transport(enum.IntEnum):
    """What a connection of a transfer is. Protocol numbers of IP."""

    TCP = 6
    UDP = 17


class TransferStage(enum.IntEnum):
    """What a transfer request asks for, and a reply reports."""

    PREPARE = 1  # could these sockets of yours move? Changes nothing
    MOVE = 2  # they are stopped here; move yours, and hold them
    END = 3  # ours have moved, or not: let yours go, or take them back
    FINISH = 4  # that was all: move what you can without us


class Obstacle(enum.IntEnum):
    """Why a socket is not moved, on the wire. Numbers that a later version adds read as FAILED."""

    NONE = 0
    NOTHING_TO_DO = 1  # it serves every address as it is
    NOT_FOUND = 2  # there is no such socket
    CONFIGURED = 3  # the configuration lets it stay
    OWNER = 4  # the program that has it can't be stopped
    KIND = 5  # a socket of its kind can't be moved
    BOUND = 6  # its program bound it to the old address
    BUSY = 7  # not now
    CHANGED = 8  # it is not any more what was agreed upon
    ROUTE = 9  # the routing does not let it use the new address
    FAILED = 10  # the kernel refused
    LOST = 11  # it could not be put together again: the connection is over
    SILENT = 12  # its host does not answer
    MOVED = 13  # it is at the new addresses already; the number is valid
    OVERTAKEN = 14  # the addresses have changed meanwhile: it is where it was

    @classmethod
    def _missing_(cls, value: object) -> Obstacle | None:
        return cls.FAILED if isinstance(value, int) and 0 <= value <= 0xFF else None


OBSTACLES_FOR_GOOD = frozenset({Obstacle.NOTHING_TO_DO, Obstacle.CONFIGURED, Obstacle.KIND, Obstacle.BOUND})
"""What time does not change. (Another address may.)"""
OBSTACLES_BEFORE = frozenset({Obstacle.OWNER, Obstacle.KIND, Obstacle.BOUND, Obstacle.OVERTAKEN})
"""With these a follower has left a socket where it was. With others, as FAILED or BUSY, it may have moved it."""


@dataclass(frozen=True, slots=True)
class AddressChange:
    """The sender's whole binding: where it is now, and which old addresses of its are still in use.

    Also sent when nothing moved: to register, to refresh, and to release (fewer deprecated addresses).
    """

    sequence: int
    handover: bytes
    nonce: bytes
    current: IPAddress
    deprecated: tuple[IPAddress, ...]
    method: Method
    instance: bytes
    software: str | None = None
    """The sender's version, for the other host's operator; nothing depends on it."""


@dataclass(frozen=True, slots=True)
class Acknowledgment:
    """Answer to an address change. A challenge in it asks for a path response from the current address."""

    sequence: int
    handover: bytes
    nonce: bytes
    verdict: Verdict
    challenge: bytes | None
    grace_ms: int
    last_sequence: int
    reason: str
    instance: bytes
    software: str | None = None


@dataclass(frozen=True, slots=True)
class PathResponse:
    """The challenge, sent back: proof that the sender receives at its current address (RFC 9000 §8.2)."""

    sequence: int
    handover: bytes
    challenge: bytes


@dataclass(frozen=True, slots=True)
class FiltersRequest:
    """Method migrate: asks the correspondent to take a step of moving its filters."""

    sequence: int
    handover: bytes
    stage: Stage


@dataclass(frozen=True, slots=True)
class FiltersReply:
    """Answer to a filters request. An empty reason means done."""

    sequence: int
    handover: bytes
    stage: Stage
    reason: str


@dataclass(frozen=True, slots=True, order=True)
class Connection:
    """A connection between two address pairs that the transfer names, by what tells it from others."""

    transport: Transport
    port: int
    """Of the message's sender."""
    remote_port: int
    obstacle: Obstacle = Obstacle.NONE
    number: int = 0
    """TCP: the sequence number that the sender's socket expects next, a received FIN not counted."""


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """Asks the other host to take a step of moving sockets. Addresses are as the sender sees them."""

    sequence: int
    handover: bytes
    transfer: int
    stage: TransferStage
    old: tuple[IPAddress, IPAddress]
    """The sender's and the receiver's address of the connections, up to now."""
    new: tuple[IPAddress, IPAddress]
    connections: tuple[Connection, ...]


@dataclass(frozen=True, slots=True)
class TransferReply:
    """Answer to a transfer request: every connection of it, ports as its sender sees them, with what came of it."""

    sequence: int
    handover: bytes
    transfer: int
    stage: TransferStage
    connections: tuple[Connection, ...]


Message = (
    AddressChange | Acknowledgment | PathResponse | FiltersRequest | FiltersReply | TransferRequest | TransferReply
)
