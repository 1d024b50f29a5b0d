"""What the configuration says, as the machines take it."""

from __future__ import annotations

from dataclasses import dataclass

from swanroam.protocol.authorisation import Policy
from swanroam.protocol.messages import Method


@dataclass(frozen=True, slots=True)
class MobileSettings:
    """About moves of our own. Times in seconds."""

    active: bool
    """We may move: registers with the peer and announces changes."""
    method: Method
    first_retransmit: float
    ceiling: float
    give_up: float
    """After so long without an answer the peer counts as silent; sending goes on at the refresh interval."""
    refresh: float
    grace: float
    end_after: float | None
    """How long after the grace period sockets may stay on an old address; None: as long as they live."""
    instance: bytes
    """Identifies this run of the controller."""
    software: str | None = None
    """This controller's version, to be told to the peer."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Everything that the configuration says about one peer. Times in seconds."""

    mobile: MobileSettings
    policy: Policy
    transport: bool
    """Sockets move to the new address."""
    stopped_share: float
    """Of the time, for which the peer may have programs stopped, in the long run."""
    forget_after: float
    """A peer without IKE_SA and without a message for so long is no longer managed."""
