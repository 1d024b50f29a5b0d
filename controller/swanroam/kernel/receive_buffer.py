"""How much a socket holds for a reader that is busy."""

from __future__ import annotations

import socket
from typing import Any, Final

_SO_RCVBUFFORCE: Final = 33  # include/uapi/asm-generic/socket.h; the socket module has no name for it


def enlarge(receiver: Any, size: int) -> None:
    """Give a socket, or what behaves as one, a receive buffer of `size` bytes. Raises OSError.

    Without CAP_NET_ADMIN in the initial user namespace, what net.core.rmem_max allows has to do. Source: socket(7).
    """
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
