"""Where a leader is in its round; `leader` has the theory."""

from __future__ import annotations

import enum

from swanroam.protocol.messages import TransferStage


class Phase(enum.Enum):
    """Where the leader is."""

    IDLE = enum.auto()  # between two rounds
    FINDING = enum.auto()  # looking for sockets
    PREPARING = enum.auto()  # the follower looks at its own
    STOPPING = enum.auto()  # our programs are being stopped
    MOVING = enum.auto()  # stopped; the follower moves its sockets
    REBUILDING = enum.auto()  # we move ours
    LETTING_GO = enum.auto()  # our programs run on
    ENDING = enum.auto()  # the follower lets its programs go
    FINISHING = enum.auto()  # the follower is told that this was all


WAITING = {
    Phase.PREPARING: TransferStage.PREPARE,
    Phase.MOVING: TransferStage.MOVE,
    Phase.ENDING: TransferStage.END,
    Phase.FINISHING: TransferStage.FINISH,
}
"""Phases in which a request is outstanding."""
HOLDING = (Phase.STOPPING, Phase.MOVING, Phase.REBUILDING, Phase.LETTING_GO)
"""Phases in which programs of this host are stopped."""
