"""Which sockets this host has on which addresses: asked of the kernel, without the mover.

A transfer that is cut short leaves a TCP connection locked where this host's socket does not stand, because the peer's
may be there. So the locks tell what stands apart, over a crash of everything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from swanroam.daemon.socket_names import key_of
from swanroam.kernel.sockets import SocketInUse, SocketProtocol, sockets_on
from swanroam.kernel.xfrm.locks import find_locks
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress, Transport
from swanroam.protocol.transfer import Key


async def connected(pair: Pair) -> tuple[SocketInUse, ...]:
    """Connected sockets that a program has or had. Raises SocketDiagError."""
    found = await sockets_on(pair.local, pair.remote)
    return tuple(entry for entry in found if entry.connected and not entry.lingering and not entry.listening)


async def sockets_using(address: IPAddress, others: Collection[IPAddress], *, own: bool) -> list[SocketInUse]:
    """Sockets between an address (ours if `own`, else the peer's) and the others.

    For an address of ours also those that stand elsewhere, while the peer's may be waiting for them at this one.
    Raises SocketDiagError, XfrmError.
    """
    found = await (sockets_on(address, None) if own else sockets_on(None, address))
    used = [entry for entry in found if not entry.lingering and not entry.listening]
    if own:
        used = [entry for entry in used if entry.remote in others or not entry.connected]
        used += await _apart(address, others)
    return used


async def ahead_of(old: Pair, new: Pair) -> frozenset[Key]:
    """TCP sockets at the new pair whose peer's may be at the old one. Raises SocketDiagError, XfrmError."""
    ports = await _locked(old.local, [old.remote])
    return frozenset(key_of(entry) for entry in (await connected(new) if ports else ()) if _is_one(entry, ports))


async def apart_on(pair: Pair, others: Iterable[Pair]) -> tuple[SocketInUse, ...]:
    """TCP sockets at the pair whose peer's may be at one of the others. Raises SocketDiagError, XfrmError."""
    async with XfrmSocket() as xfrm:
        locks = await find_locks(xfrm)
    elsewhere = frozenset((other.local, other.remote) for other in others)
    ports = {(lock.local_port, lock.remote_port) for lock in locks if (lock.local, lock.remote) in elsewhere}
    return tuple(entry for entry in (await connected(pair) if ports else ()) if _is_one(entry, ports))


async def _apart(address: IPAddress, others: Collection[IPAddress]) -> list[SocketInUse]:
    """TCP sockets elsewhere whose peer's may be connected to this address of ours."""
    ports = await _locked(address, others)
    return [
        entry
        for other in (others if ports else ())
        for entry in await sockets_on(None, other)
        if _is_one(entry, ports) and entry.local != address and not entry.lingering and not entry.listening
    ]


async def _locked(address: IPAddress, others: Collection[IPAddress]) -> frozenset[tuple[int, int]]:
    """The ports, own and the peer's, that are locked between an address of ours and these."""
    async with XfrmSocket() as xfrm:
        locks = await find_locks(xfrm)
    return frozenset(
        (lock.local_port, lock.remote_port) for lock in locks if lock.local == address and lock.remote in others
    )


def _is_one(entry: SocketInUse, ports: Collection[tuple[int, int]]) -> bool:
    return entry.protocol is SocketProtocol.TCP and (entry.local_port, entry.remote_port) in ports


async def homes_of(keys: tuple[Key, ...], old: Pair, new: Pair, elsewhere: Iterable[Pair]) -> dict[Key, Pair]:
    """Where these stand: elsewhere only if neither at the old pair nor at the new one. Raises SocketDiagError.

    UDP sockets do not go by numbers, so that nothing would tell whether it is the same connection.
    """
    homes = dict.fromkeys(keys, old)
    if missing := {key for key in keys if key.transport is Transport.TCP} if elsewhere else set():
        missing -= {key_of(entry) for pair in (old, new) for entry in await connected(pair)}
    for pair in elsewhere if missing else ():
        homes |= {key: pair for entry in await connected(pair) if (key := key_of(entry)) in missing}
    return homes
