"""The record of one handover: what moved, and when each step was done."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from swanroam.protocol.messages import IPAddress


class Step(enum.Enum):
    """The steps of a handover, in their usual order."""

    DEPRECATED = "deprecated"  # the old address is on the carrier
    ACKNOWLEDGED = "acknowledged"  # the peer has accepted it (correspondent: we have)
    PROVEN = "proven"  # the new address is proven, data flows both ways
    FILTERS = "filters"  # security filters stand at the new address
    TRANSPORT = "transport"  # the sockets that can move are at the new address
    GRACE = "grace"  # the grace period is over
    RELEASED = "released"  # nothing of the old addresses is left


class Result(enum.Enum):
    """How a handover stands, or ended."""

    RUNNING = "running"
    CARRYING = "carrying"  # everything done; sockets on the old address still use the carrier
    DONE = "done"
    OVERTAKEN = "overtaken"  # another move came first; what was left is the next handover's
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    UNPROVEN = "unproven"  # the peer's: it did not show that it receives at its new address


class Cause(enum.Enum):
    """Why an address changes."""

    PLANNED = "planned"  # somebody asked for it
    PREFERRED = "preferred"  # the old address works, another is preferred now
    DEPRECATED = "deprecated"  # the old address is about to be withdrawn
    GONE = "gone"  # the host has lost the old address
    LINK_DOWN = "link_down"  # the host has it on a link that passes no packets
    PEER = "peer"  # it is the peer's address, and the peer knows why
    UNKNOWN = "unknown"  # an earlier run began it


@dataclass(frozen=True, slots=True)
class Handover:
    """One address change towards one peer. Times are seconds on the machine's monotonic clock."""

    id: bytes
    old: IPAddress
    new: IPAddress
    sequence: int
    started: float
    steps: tuple[tuple[Step, float], ...] = ()
    result: Result = Result.RUNNING
    detail: str = ""
    cause: Cause = Cause.UNKNOWN

    @property
    def name(self) -> str:
        """The correlation id in logs and status."""
        return self.id.hex()

    def reached(self, step: Step) -> bool:
        return any(done is step for done, _ in self.steps)

    def with_step(self, step: Step, now: float) -> Handover:
        return self if self.reached(step) else replace(self, steps=(*self.steps, (step, now)))

    def ended(self, result: Result, detail: str = "") -> Handover:
        return replace(self, result=result, detail=detail)

    @property
    def step_seconds(self) -> dict[str, float]:
        """For each step done, seconds since the handover started."""
        return {step.value: round(at - self.started, 6) for step, at in self.steps}
