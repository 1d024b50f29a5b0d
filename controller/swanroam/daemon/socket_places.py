"""Which sockets this host has on which addresses: asked of the kernel, without the mover."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from swanroam.daemon.socket_names import key_of
from swanroam.kernel.sockets import SocketInUse, sockets_on
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress, Transport
from swanroam.protocol.transfer import Key


async def connected(pair: Pair) -> tuple[SocketInUse, ...]:
    """Connected sockets that a program has or had. Raises SocketDiagError."""
    found = await sockets_on(pair.local, pair.remote)
    return tuple(entry for entry in found if entry.connected and not entry.lingering and not entry.listening)


async def sockets_using(address: IPAddress, others: Collection[IPAddress], *, own: bool) -> list[SocketInUse]:
    """Sockets between an address (ours if `own`, else the peer's) and the others. Raises SocketDiagError."""
    found = await (sockets_on(address, None) if own else sockets_on(None, address))
    used = [entry for entry in found if not entry.lingering and not entry.listening]
    if own:
        used = [entry for entry in used if entry.remote in others or not entry.connected]
    return used


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
