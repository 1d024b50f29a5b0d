"""Ends connections of other programs, for kernels that do not do so when they are asked (CONFIG_INET_DIAG_DESTROY).

connect(AF_UNSPEC) on a duplicate of the program's descriptor: the kernel sends a TCP peer a reset, and the program gets
ECONNRESET, or EPIPE where it waits (tcp_disconnect, net/ipv4/tcp.c). Some kernels refuse it while a thread waits in the
socket; such a thread is woken by a shutdown first, and reads the end of the stream.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from swanroam.transport import repair
from swanroam.transport.finding import at_old_addresses
from swanroam.transport.orders import Entry, Reason, Refusal
from swanroam.transport.owners import DescriptorError, OwnerTable

_TRIES: Final = 20
_PAUSE: Final = 0.005
"""Seconds until a thread that was woken has left the socket."""


async def end(entries: Sequence[Entry], owners: OwnerTable) -> Mapping[int, Refusal]:
    """End the connections that are at the old addresses of these; says which could not be. Raises SocketDiagError."""
    found = await at_old_addresses(entries)
    await owners.holders([one.inode for group in found.values() for one in group])
    refusals: dict[int, Refusal] = {}
    for index, group in found.items():
        for one in group:
            try:
                copy = owners.duplicate(one.inode)
                if copy is None:
                    refusals[index] = Refusal(Reason.NO_OWNER)
                    continue
                with copy:
                    await _disconnect(copy)
            except DescriptorError as error:
                refusals[index] = Refusal(Reason.PERMISSION, str(error))
            except OSError as error:
                refusals[index] = Refusal(Reason.FAILED, str(error))
    return refusals


async def _disconnect(sock: socket.socket) -> None:
    for left in reversed(range(_TRIES)):
        try:
            return repair.disconnect(sock)
        except OSError as error:
            if error.errno != errno.EBUSY or not left:
                raise
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(_PAUSE)
    return None
