"""What is done to one socket, alike for TCP (`connection`) and UDP (`datagram`). Used by worker and keeper."""

from __future__ import annotations

import socket
from contextlib import suppress

from swanroam.kernel.sock_diag import SocketProtocol
from swanroam.transport import binding, connection, datagram, repair
from swanroam.transport.binding import Steering
from swanroam.transport.datagram import DatagramImage
from swanroam.transport.image import FourTuple, Image, Refused, SignatureKey
from swanroam.transport.image import Reason as ImageReason
from swanroam.transport.orders import Entry, Place, Reason, Refusal

Picture = Image | DatagramImage

_REASONS = {
    ImageReason.PEER_DISAGREES: Reason.CHANGED,
    ImageReason.BOUND_TO_ADDRESS: Reason.BOUND,
    ImageReason.BOUND_TO_DEVICE: Reason.BOUND,
    ImageReason.NOT_CONNECTED_BOUND: Reason.BOUND,
    ImageReason.NO_ADDRESS: Reason.ROUTE,
    ImageReason.SOURCE: Reason.ROUTE,
    ImageReason.ROUTE: Reason.ROUTE,
    ImageReason.STATE: Reason.PASSING,
    ImageReason.REPAIR: Reason.PASSING,
    ImageReason.URGENT_DATA: Reason.PASSING,
    ImageReason.PORT_TAKEN: Reason.PASSING,
}
"""Of all others the socket itself is the reason."""


def inspect(entry: Entry, sock: socket.socket, receive_queue: int | None = None) -> None:
    """Changes nothing. `receive_queue`: as inet_diag tells it, with the owner stopped. Raises Refused, OSError."""
    if entry.protocol is SocketProtocol.TCP:
        connection.inspect(sock, receive_queue, interface=entry.interface)
    else:
        datagram.inspect(sock, interface=entry.interface)


def number(entry: Entry, sock: socket.socket) -> int | None:
    """The receive sequence number; UDP has none. Raises OSError: then `clear`."""
    return connection.read_number(sock) if entry.protocol is SocketProtocol.TCP else None


def take(entry: Entry, sock: socket.socket, keys: tuple[SignatureKey, ...]) -> Picture:
    """Everything of the socket. Raises OSError: then `clear`."""
    return connection.take(sock, keys) if entry.protocol is SocketProtocol.TCP else datagram.take(sock)


def build(entry: Entry, sock: socket.socket, picture: Picture, place: Place, peer_number: int) -> None:
    """The socket at a place, whatever state it is in. Raises Refused, OSError: then build it at the other place."""
    target = FourTuple(*entry.ends(place))
    steering = Steering(entry.interface if place is Place.NEW else 0)
    if isinstance(picture, Image):
        connection.rebuild(sock, picture, target, peer_number, steering)
    else:
        datagram.rebuild(sock, picture, target, steering)


def let_go(sock: socket.socket, picture: Picture) -> None:
    """A socket that was built, once its addresses are unlocked. Raises OSError."""
    if isinstance(picture, Image):
        connection.let_go(sock, picture)


def abandon(entry: Entry, sock: socket.socket, picture: Picture, reuse_address: int) -> None:
    """One that could be built nowhere: its program hears of it when it sends, and sends to nobody else by it."""
    with suppress(OSError):
        repair.disconnect(sock)
    with suppress(OSError):
        binding.restore(sock, picture.settings)
    clear(entry, sock, reuse_address)


def clear(entry: Entry, sock: socket.socket, reuse_address: int) -> None:
    """Back as it was before `number` or `take`, which may have been interrupted."""
    if entry.protocol is SocketProtocol.TCP:
        with suppress(OSError):  # it has ended meanwhile
            connection.clear_repair(sock, reuse_address)


def refusal_for(refused: Refused) -> Refusal:
    if refused.reason.needs_nothing:
        return Refusal(Reason.WILDCARD)
    return Refusal(_REASONS.get(refused.reason, Reason.UNMOVABLE), str(refused))
