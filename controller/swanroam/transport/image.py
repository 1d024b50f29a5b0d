"""A connection as data, and the reasons why one cannot be moved. Everything here can be pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from swanroam.kernel.sock_diag import IPAddress

SEQUENCE_MASK = 0xFFFFFFFF


class Reason(Enum):
    """Why a socket is not moved; the value is a line for `status`."""

    STATE = "it is not an established connection"
    REPAIR = "another program holds it in repair mode"
    UPPER_PROTOCOL = "the kernel runs another protocol on top of it (kernel TLS or the like)"
    MULTIPATH = "it is a Multipath TCP connection"
    AUTHENTICATION_OPTION = "it is signed with TCP-AO"
    URGENT_DATA = "urgent data is waiting in it"
    PEEK_OFFSET = "its program reads ahead with a peek offset"
    BOUND_TO_DEVICE = "it is bound to another network device than the one of the new address"
    BOUND_TO_ADDRESS = "its program bound it to the old address and a port"
    PORT_TAKEN = "its port is in use at the new address"
    NO_ADDRESS = "this host does not have the new address"
    SOURCE = "the routes choose another source address than the new one"
    ROUTE = "no route leads from the new address to the peer"
    PEER_DISAGREES = "the two hosts disagree on what has been received"
    ENCAPSULATION = "the kernel uses it for a tunnel"
    NOT_CONNECTED = "it is not connected and takes packets to any address: nothing to do"
    NOT_CONNECTED_BOUND = "it is not connected and its program bound it to the old address"

    @property
    def needs_nothing(self) -> bool:
        """Whether the socket serves the new address as it is."""
        return self is Reason.NOT_CONNECTED


class Refused(Exception):  # noqa: N818 - an answer rather than a failure
    """The socket cannot be moved as asked for; what to do is said where it is raised."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value


@dataclass(frozen=True, slots=True)
class FourTuple:
    """Where a connection is. IPv4 inside an IPv6 socket is written as the IPv4 address that is on the wire."""

    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int

    def __str__(self) -> str:
        return f"{self.local} port {self.local_port} - {self.remote} port {self.remote_port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a socket that a move changes for a moment, to be put back to these values."""

    reuse_address: int
    device: int
    """Index of the device that the socket is bound to; 0 for none."""
    mark: int
    bind_address_no_port: int
    port_range: int | None
    """IP_LOCAL_PORT_RANGE; None where the kernel has none."""
    source_routes: tuple[bytes, bytes]
    """IPv4 options and IPv6 routing header."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """Sizes of a TCP socket's queues, which taking it apart and refilling it may change."""

    send: int
    receive: int
    """Octets as getsockopt tells them: twice what a program sets (socket(7))."""
    locks: int
    """SO_BUF_LOCK: which of them its program has fixed."""
    not_sent_low: int
    """TCP_NOTSENT_LOWAT in octets; 0 for what the sysctl says."""


@dataclass(frozen=True, slots=True)
class Window:
    """struct tcp_repair_window (linux/tcp.h): sequence numbers and octets."""

    send_update: int
    """Sequence number of the segment that brought the send window."""
    send: int
    send_largest: int
    receive: int
    receive_update: int
    """Receive sequence number when the receive window was last announced."""


@dataclass(frozen=True, slots=True)
class SignatureKey:
    """A TCP-MD5 key (RFC 2385) for packets from and to the addresses of a prefix."""

    address: IPAddress
    prefix_length: int
    key: bytes = field(repr=False)

    def covers(self, address: IPAddress) -> bool:
        if address.version != self.address.version:
            return False
        shift = address.max_prefixlen - self.prefix_length
        return int(address) >> shift == int(self.address) >> shift


@dataclass(frozen=True, slots=True)
class Image:
    """An established or half-closed TCP connection, complete: from this it can be built again in the same socket.

    Sequence numbers and queues do not count FINs: they are replayed by whoever sent them.
    """

    family: int
    """AF_INET or AF_INET6, of the socket."""
    addresses: FourTuple
    settings: Settings
    buffers: Buffers
    window: Window
    receive_next: int
    """The number for the peer: all before has been received."""
    received: bytes = field(repr=False)
    """Received and not yet read by the program."""
    write_next: int
    """Sequence number after the last octet that the program has written."""
    unacknowledged: bytes = field(repr=False)
    """Written and not known to be received; its last octet is before `write_next`."""
    fin_sent: bool
    """The program has ended its direction; the FIN may or may not have been acknowledged."""
    fin_received: bool
    reading_ended: bool
    """The program has called shutdown(SHUT_RD)."""
    segment_limit: int
    """The largest segment that the peer takes, in octets."""
    selective_acks: bool
    timestamps: bool
    send_scale: int
    receive_scale: int
    no_delay: int
    cork: int
    kept: tuple[tuple[int, int], ...]
    """TCP options (number, value) that taking apart loses, of those that this kernel has."""
    congestion_control: bytes
    keys: tuple[SignatureKey, ...] = ()

    @property
    def send_unacknowledged(self) -> int:
        """Sequence number of the first octet that is not known to be received."""
        return (self.write_next - len(self.unacknowledged)) & SEQUENCE_MASK

    def skipped(self, peer_number: int) -> int:
        """How many of the unacknowledged octets the peer has, by its number. Raises Refused: not a possible number."""
        skip = (peer_number - self.send_unacknowledged) & SEQUENCE_MASK
        if skip > len(self.unacknowledged):
            raise Refused(
                Reason.PEER_DISAGREES,
                f"{self.addresses}: the peer has all before {peer_number}, this host keeps "
                f"{self.send_unacknowledged} to {self.write_next}",
            )
        return skip
