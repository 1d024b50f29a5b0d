"""From the configuration file to what a peer's machine takes."""

from __future__ import annotations

from swanroam import __version__
from swanroam.config import Config, FilterMethod, PeerSettings, TransportMethod
from swanroam.protocol.authorisation import Policy
from swanroam.protocol.messages import Method
from swanroam.protocol.settings import MobileSettings
from swanroam.protocol.settings import PeerSettings as MachineSettings

RETRANSMIT_CEILING = 5.0
"""Seconds: the longest pause between two retransmissions."""


def machine_settings(peer: PeerSettings, config: Config, instance: bytes) -> MachineSettings:
    """`instance`: identifies this run of the controller."""
    method = Method.MIGRATE if peer.filters is FilterMethod.MIGRATE else Method.RENEGOTIATE
    return MachineSettings(
        mobile=MobileSettings(
            active=peer.moves.we_may,
            method=method,
            first_retransmit=config.timing.first_retransmit,
            ceiling=RETRANSMIT_CEILING,
            give_up=config.timing.give_up,
            refresh=config.timing.refresh,
            grace=peer.grace,
            end_after=config.sockets.end_after,
            instance=instance,
            software=__version__,
        ),
        policy=Policy(may_move=peer.moves.peer_may, allowed=peer.allow),
        transport=peer.transport is TransportMethod.MOVE,
        stopped_share=config.sockets.stopped_share / 100,
        forget_after=config.timing.refresh * 10,
    )
