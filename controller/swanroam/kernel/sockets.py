"""Which sockets of this host use an address, and which programs own them.

Read over NETLINK_SOCK_DIAG (sock_diag(7)) with a filter that the kernel applies, so a host with 100 000 connections
costs no more than those that match. Only sockets of the network namespace of the calling thread are seen.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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
    "Owner",
    "SocketDiagError",
    "SocketEnds",
    "SocketGone",
    "SocketInUse",
    "SocketProtocol",
    "SocketState",
    "automatic_ports",
    "destroy",
    "owners",
    "sockets_on",
]

SCAN_TIME = 5.0
"""Seconds after which `owners` answers with what it has found; 10 000 descriptors take about 0.05."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that has a socket open."""

    pid: int
    command: str
    """comm of the process: its name, at most 15 characters."""


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


async def owners(inodes: Collection[int]) -> dict[int, tuple[Owner, ...]]:
    """The processes that have the sockets with these inodes open, in order of their ids.

    A socket that nobody has, or whose process may not be looked into (that takes CAP_SYS_PTRACE for those of other
    users, ptrace(2)), is missing from the answer. Reads /proc in a thread of its own, for at most `SCAN_TIME`.
    """
    wanted = frozenset(inodes) - {0}
    return await asyncio.to_thread(_scan_processes, wanted) if wanted else {}


# /proc. Source: proc_pid_fd(5)

_SOCKET_LINK = re.compile(r"socket:\[(\d+)\]")


def _scan_processes(wanted: frozenset[int], root: Path = Path("/proc")) -> dict[int, tuple[Owner, ...]]:
    """Go through the processes; they may vanish, or forbid it, at any moment."""
    found: dict[int, list[Owner]] = {}
    deadline = time.monotonic() + SCAN_TIME
    for pid in sorted(int(path.name) for path in root.iterdir() if path.name.isdigit()):
        if time.monotonic() > deadline:
            break
        inodes = _sockets_of(root / str(pid)) & wanted
        if not inodes:
            continue
        with suppress(OSError):
            command = (root / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
            for inode in inodes:
                found.setdefault(inode, []).append(Owner(pid, command))
    return {inode: tuple(owning) for inode, owning in found.items()}


def _sockets_of(process: Path) -> set[int]:
    inodes: set[int] = set()
    # The directory vanishes with the process, each entry when it is closed; neither is an error.
    with suppress(OSError), os.scandir(process / "fd") as descriptors:
        for descriptor in descriptors:
            with suppress(OSError):
                target = os.readlink(descriptor.path)  # noqa: PTH115 - a Path for each would double the time
                if match := _SOCKET_LINK.fullmatch(target):
                    inodes.add(int(match[1]))
    return inodes
