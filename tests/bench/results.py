"""What was measured, raw, one record per repetition. Times are milliseconds, rates bytes per second.

"Up" is from the mobile host to the correspondent, "down" the other way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.settings import Settings


@dataclass(frozen=True, slots=True)
class MoveSample:
    """One move under a TCP and a UDP application."""

    contender: str
    rtt_ms: int
    move: str
    tcp_up_ms: float
    """The longest time in which the receiver heard nothing."""
    tcp_down_ms: float
    udp_up_ms: float
    udp_down_ms: float
    udp_sent: int
    """Both ways, from its start to its end."""
    udp_lost_up: int
    udp_lost_down: int
    udp_lost_addressless: int
    """Both ways, of those lost: sent while the host had no address."""
    floor_tcp_ms: float
    """The longest silence of either direction in the second before the move."""
    addressless_ms: float
    reconnects: int
    settled_ms: float
    """From the arrival of the new address until SAs and policies stand there on both hosts."""
    steps: Mapping[str, float] = field(default_factory=dict)
    """The mobile host's steps: milliseconds after the handover's start. Empty for a contender without record."""
    peer_steps: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClearSample:
    """What the router saw in a move that was not timed."""

    contender: str
    move: str
    clear: int
    """Packets between the two hosts that were not protected."""
    packets: int


@dataclass(frozen=True, slots=True)
class SocketsSample:
    """One move with many connections open."""

    contender: str
    count: int
    opened: int
    handover_ms: float
    """As `settled_ms`; with a step `transport` in the record: until all sockets are moved."""
    step: str
    """What `handover_ms` ends with."""
    answered_ms: float
    """From the arrival of the new address until every connection has answered a request made right after it."""
    lost: int
    reopened: int
    silence_ms: float
    """Of one more connection that ticks meanwhile."""
    status_ms: float | None
    """How long `swanroam status` takes; None without swanroam."""
    listed: int | None
    """Sockets that it lists on the carrier."""


@dataclass(frozen=True, slots=True)
class ThroughputSample:
    """One connection as fast as it goes, before a move and after it."""

    contender: str
    rtt_ms: int
    before: Mapping[str, tuple[float, ...]]
    """By direction, "up" and "down": one figure for each window."""
    after: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Machine:
    """A kernel, and what elementary things cost under it, in microseconds."""

    kernel: str
    emulated: bool
    processors: int
    costs: Mapping[str, float]


@dataclass(slots=True)
class Results:
    """A whole run."""

    settings: Settings
    machine: Machine
    outside: Machine | None = None
    """The machine that emulates; None when nothing is emulated."""
    moves: list[MoveSample] = field(default_factory=list)
    clear: list[ClearSample] = field(default_factory=list)
    sockets: list[SocketsSample] = field(default_factory=list)
    throughput: list[ThroughputSample] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    """What was left out, and why."""
    failed: list[str] = field(default_factory=list)
    """What was tried and did not work."""
