"""What the daemon has done since it started, as numbers that only grow. `metrics` publishes them.

Nothing here is a label that a peer could invent: all keys are members of enumerations, or names of message types.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from swanroam.protocol.authorisation import Ground
from swanroam.protocol.events import Fact, Report, Send
from swanroam.protocol.handover import Handover, Result, Step
from swanroam.protocol.messages import Message
from swanroam.protocol.peer import PeerMachine

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds: upper limits of the histogram's classes, from a local network's round trip to a long grace period."""


class Role(enum.Enum):
    """Whose address changes."""

    MOBILE = "mobile"  # this host's
    CORRESPONDENT = "correspondent"  # the peer's


class ReloadResult(enum.Enum):
    """What came of reading the configuration file again."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(slots=True)
class Histogram:
    """Durations in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    """For each class how many, the last being what is above all limits."""
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Counts:
    """Of all peers, those that have gone as well."""

    sent: Counter[str] = field(default_factory=Counter)
    """Messages to peers, by type."""
    retransmitted: Counter[str] = field(default_factory=Counter)
    """Those of them that were sent before and not answered."""
    received: Counter[str] = field(default_factory=Counter)
    facts: Counter[Fact] = field(default_factory=Counter)
    handovers: Counter[tuple[Role, Result]] = field(default_factory=Counter)
    steps: dict[tuple[Role, Step], Histogram] = field(default_factory=dict)
    mended: int = 0
    """How often the kernel was not as it should be, and was put right."""
    reloads: Counter[ReloadResult] = field(default_factory=Counter)
    refused: Counter[Ground] = field(default_factory=Counter)
    """By peers that have gone. The machines count for the others; see `of_gone`."""
    sockets_moved: int = 0
    sockets_lost: int = 0

    def message_sent(self, action: Send) -> None:
        kind = message_type(type(action.message))
        self.sent[kind] += 1
        if action.attempt > 1:
            self.retransmitted[kind] += 1

    def message_received(self, message: Message) -> None:
        self.received[message_type(type(message))] += 1

    def reported(self, report: Report, machine: PeerMachine) -> None:
        """Something that a machine reports."""
        self.facts[report.fact] += 1
        handover = report.handover
        if handover is None:
            return
        role = _role(handover, machine)
        if report.fact is Fact.HANDOVER_STEP:
            step, at = handover.steps[-1]
            self.steps.setdefault((role, step), Histogram()).observe(at - handover.started)
        elif report.fact is Fact.HANDOVER_FINISHED:
            self.handovers[role, handover.result] += 1

    def of_gone(self, machine: PeerMachine) -> None:
        """The peer goes; what its machine has counted stays counted."""
        self.refused.update(machine.correspondent.refusals)
        self.sockets_moved += machine.transfers.tally.moved_ever
        self.sockets_lost += machine.transfers.tally.lost_ever


def message_type(kind: type[Message]) -> str:
    """AddressChange -> address_change."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("_")


def _role(handover: Handover, machine: PeerMachine) -> Role:
    """An address that a host has moved to stays in its binding, until nothing uses it any more."""
    ours = machine.own is not None and handover.new in machine.own.addresses
    return Role.MOBILE if ours else Role.CORRESPONDENT
