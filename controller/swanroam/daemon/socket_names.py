"""The names of sockets in two languages: the protocol's keys and obstacles, the mover's entries and reasons."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from swanroam.kernel.sockets import SocketInUse, SocketProtocol
from swanroam.protocol.messages import Obstacle, Transport
from swanroam.protocol.transfer import Kept, Key
from swanroam.transport.orders import Reason, Refusal

log = structlog.get_logger("swanroam")

OBSTACLES = {
    Reason.NOT_FOUND: Obstacle.NOT_FOUND,
    Reason.WILDCARD: Obstacle.NOTHING_TO_DO,
    Reason.EXCLUDED: Obstacle.CONFIGURED,
    Reason.NO_OWNER: Obstacle.OWNER,  # a listener may be about to accept it
    Reason.OWN: Obstacle.KIND,
    Reason.TRACED: Obstacle.OWNER,
    Reason.PERMISSION: Obstacle.OWNER,
    Reason.USER_NAMESPACE: Obstacle.OWNER,
    Reason.IO_URING: Obstacle.OWNER,
    Reason.NOT_STOPPED: Obstacle.OWNER,
    Reason.VANISHED: Obstacle.CHANGED,
    Reason.UNMOVABLE: Obstacle.KIND,
    Reason.BOUND: Obstacle.BOUND,
    Reason.ROUTE: Obstacle.ROUTE,
    Reason.PASSING: Obstacle.CHANGED,
    Reason.NO_NUMBER: Obstacle.CHANGED,
    Reason.CHANGED: Obstacle.CHANGED,
    Reason.TIMED_OUT: Obstacle.CHANGED,
    Reason.FAILED: Obstacle.FAILED,
    Reason.LOST: Obstacle.LOST,
}
_PROTOCOLS = {SocketProtocol.TCP: Transport.TCP, SocketProtocol.UDP: Transport.UDP}
TRANSPORTS = {transport: protocol for protocol, transport in _PROTOCOLS.items()}


def key_of(entry: SocketInUse) -> Key:
    """How the protocol names a socket."""
    return Key(_PROTOCOLS[entry.protocol], entry.local_port, entry.remote_port)


def kept_of(
    keys: tuple[Key, ...], refusals: Mapping[int, Refusal], owners: Mapping[int, tuple[str, ...]] | None = None
) -> tuple[Kept, ...]:
    for index, refusal in sorted(refusals.items()):
        if refusal.reason is Reason.LOST:
            log.error("socket_lost", socket=str(keys[index]), reason=str(refusal))
        else:
            log.debug("socket_kept", socket=str(keys[index]), reason=str(refusal))
    return tuple(
        Kept(keys[index], OBSTACLES[refusal.reason], str(refusal), (owners or {}).get(index, ()))
        for index, refusal in sorted(refusals.items())
    )
