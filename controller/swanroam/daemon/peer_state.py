"""How a peer is doing, in one word."""

from __future__ import annotations

import enum

from swanroam.protocol.peer import PeerMachine


class PeerState(enum.Enum):
    """The first that fits, in this order."""

    NO_IKE_SA = "no_ike_sa"
    NO_CONTROL_CHILD = "no_control_child"  # so its controller can't be asked
    UNMANAGED = "unmanaged"  # its controller has not answered, or not registered
    LOST = "lost"  # we moved, and it is not where it was
    SILENT = "silent"  # its controller has stopped answering
    MOVING = "moving"  # this host's address changes
    PEER_MOVING = "peer_moving"  # its address changes
    READY = "ready"  # protected and ready to move


def peer_state(machine: PeerMachine) -> PeerState:
    """Of the peer with this machine."""
    if not machine.associations:
        return PeerState.NO_IKE_SA
    if not machine.managed:
        control = any(association.control for association in machine.associations)
        return PeerState.UNMANAGED if control else PeerState.NO_CONTROL_CHILD
    if machine.mobile.seeker.sought_at:
        return PeerState.LOST
    if machine.mobile.silent:
        return PeerState.SILENT
    if machine.mobile.handover is not None:
        return PeerState.MOVING
    if machine.correspondent.handover is not None:
        return PeerState.PEER_MOVING
    return PeerState.READY
