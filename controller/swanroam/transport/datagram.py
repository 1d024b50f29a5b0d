"""One connected UDP socket gets new addresses in place; what it has received stays in its queue.

Nothing of it is in flight: `take`, then `rebuild`, for the new four-tuple or, to undo, for that of the image. As for
TCP, `rebuild` can be repeated from any state that it was interrupted in, by another process. The owner is stopped and
nothing comes in for either four-tuple meanwhile. Datagrams that the program held back with UDP_CORK are lost.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from swanroam.transport import binding, repair
from swanroam.transport.binding import Placing, Steering
from swanroam.transport.image import FourTuple, Reason, Refused, Settings

_UDP_ENCAP = 100


@dataclass(frozen=True, slots=True)
class DatagramImage:
    """A connected UDP socket, as far as moving it changes something."""

    family: int
    addresses: FourTuple
    settings: Settings


def inspect(sock: socket.socket, *, interface: int = 0) -> None:
    """Refuse what needs nothing and what cannot be moved. Changes nothing.

    `interface`: index of the device that has the new address, 0 when it is not known. Raises Refused, OSError.
    """
    if sock.getsockopt(socket.IPPROTO_UDP, _UDP_ENCAP):
        raise Refused(Reason.ENCAPSULATION)
    try:
        binding.four_tuple(sock)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        address, _port = binding.local_name(sock)
        raise Refused(Reason.NOT_CONNECTED if address.is_unspecified else Reason.NOT_CONNECTED_BOUND) from None
    device = sock.getsockopt(socket.SOL_SOCKET, repair.SO_BINDTOIFINDEX)
    if device and interface and device != interface:
        raise Refused(Reason.BOUND_TO_DEVICE)


def take(sock: socket.socket) -> DatagramImage:
    """What `rebuild` needs. Changes nothing. Raises OSError."""
    return DatagramImage(sock.family, binding.four_tuple(sock), binding.settings(sock))


def rebuild(sock: socket.socket, image: DatagramImage, target: FourTuple, steering: Steering | None = None) -> None:
    """Connect the socket at `target`. Raises Refused (those of `Placing.place`) and OSError.

    Rebuild it at the image's own four-tuple then.
    """

    def connect() -> None:
        sock.connect(binding.socket_address(image.family, target.remote, target.remote_port))

    if binding.local_name(sock) == (target.local, target.local_port):
        # Only the peer moves: the kernel changes it in one step, and the socket is never without its port.
        connect()
        binding.restore(sock, image.settings)
        return
    repair.disconnect(sock)
    binding.restore(sock, image.settings)

    def take_detour() -> None:
        # The source on the way to one's own address is this address, and connecting again keeps it.
        sock.connect(binding.socket_address(image.family, target.local, target.remote_port))

    placing = Placing(sock, target, image.settings, steering or Steering(), connect, take_detour)
    placing.place(whatever_it_takes=target == image.addresses)
