"""Which sockets of this host use an address.

Read over NETLINK_SOCK_DIAG (sock_diag(7)) with a filter that the kernel applies, so a host with 100 000 connections
costs no more than those that match. Only sockets of the network namespace of the calling thread are seen.
"""

from __future__ import annotations

from swanroam.kernel.sock_diag import (
    CannotDestroy,
    Condition,
    IPAddress,
    SocketDiag,
    SocketDiagError,
    SocketEnds,
    SocketGone,
    SocketInUse,
    SocketProtocol,
    SocketState,
)

__all__ = [
    "CannotDestroy",
    "IPAddress",
    "SocketDiagError",
    "SocketEnds",
    "SocketGone",
    "SocketInUse",
    "SocketProtocol",
    "SocketState",
    "automatic_ports",
    "destroy",
    "sockets_on",
]


async def sockets_on(local: IPAddress | None = None, remote: IPAddress | None = None) -> tuple[SocketInUse, ...]:
    """TCP and UDP sockets with this local and this remote address; None stands for any.

    A socket that is bound to the unspecified address is not on a particular one, and is found only when asked for
    with that or with None. Connections in TIME_WAIT are there too: see `SocketInUse.lingering`. The answer is sorted.

    Raises SocketDiagError.
    """
    found = await _listed(Condition(local, remote))
    return tuple(
        sorted(found, key=lambda entry: (entry.protocol.name, entry.local_port, str(entry.remote), entry.remote_port))
    )


async def automatic_ports(local: IPAddress | None = None, remote: IPAddress | None = None) -> frozenset[bytes]:
    """Cookies of those of `sockets_on` whose port was given by the kernel or inherited from a listener.

    Such a port is given up when the connection ends or is taken apart; any other one stays, with the address that it
    was bound with, until the socket is closed (SOCK_BINDPORT_LOCK). Raises SocketDiagError.
    """
    return frozenset(entry.cookie for entry in await _listed(Condition(local, remote, automatic_port=True)))


async def destroy(entry: SocketInUse) -> None:
    """End a socket as `ss --kill` does: its program gets ECONNABORTED, a TCP peer a reset.

    The socket is the one that was listed, not a later one with its addresses. Needs CAP_NET_ADMIN.
    Raises SocketGone when it is not there any more, CannotDestroy when the kernel lacks it, SocketDiagError.
    """
    with SocketDiag() as diag:
        await diag.destroy(entry)


async def _listed(condition: Condition) -> list[SocketInUse]:
    with SocketDiag() as diag:
        return [
            entry
            for family in condition.families
            for protocol in SocketProtocol
            for entry in await diag.list(family, protocol, condition)
        ]
