"""Which sockets would move if an address changed now, which would not, and why: what `swanroam sockets` shows, as JSON.

Only this host's side is looked at; the peer has its own. Nothing is changed or stopped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from swanroam.daemon.api import RequestError
from swanroam.daemon.controller import Controller
from swanroam.daemon.mover import MoverError
from swanroam.daemon.peer import Peer
from swanroam.daemon.transport import Candidate
from swanroam.kernel.sockets import SocketDiagError, SocketInUse, SocketProtocol, automatic_ports, sockets_on
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress, Obstacle

VERSION = 1
BY_PROGRAM = (
    "its program chose the port; if it chose the address as well, it stays on it, which only the attempt can show"
)
KEPT = "transport: keep is configured for this peer"
LISTENING = "it accepts connections to this address only; those to another address will not reach it"
BOUND_DATAGRAMS = "its program bound it to this address and has not connected it"

Candidates = Callable[[Pair, Pair], Awaitable[tuple[Candidate, ...]]]


class SocketReport:
    """Puts the document together. `candidates` finds the connected sockets of a pair that would go to another."""

    def __init__(self, controller: Controller, candidates: Candidates) -> None:
        self._controller = controller
        self._candidates = candidates

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """API: the document. Raises RequestError."""
        try:
            peers = [await self._peer(peer) for peer in self._controller.peers.values()]
            own = {address for peer in self._controller.peers.values() for address in _own(peer)}
            bound = [entry for address in sorted(own, key=str) for entry in await _bound(address)]
        except (MoverError, SocketDiagError) as error:
            raise RequestError(f"the sockets cannot be looked at: {error}") from error
        return {"version": VERSION, "peers": peers, "bound": bound}

    async def _peer(self, peer: Peer) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        current = peer.machine.pair
        for pair in _pairs(peer):
            assert current is not None
            automatic = await automatic_ports(pair.local, pair.remote)
            movable = peer.machine.transfers.tally.movable
            for candidate in await self._candidates(pair, current):
                known = candidate.socket.cookie in automatic or candidate.key in movable
                found.append(_entry(candidate, known=known, willing=peer.machine.settings.transport))
        return {"name": peer.settings.name, "transport": peer.settings.transport.value, "sockets": found}


def _own(peer: Peer) -> tuple[IPAddress, ...]:
    own = peer.machine.own
    return own.addresses if own is not None else ()


def _pairs(peer: Peer) -> Iterator[Pair]:
    theirs = peer.machine.peer
    for local in _own(peer):
        for remote in theirs.addresses if theirs is not None else ():
            yield Pair(local, remote)


def _entry(candidate: Candidate, *, known: bool, willing: bool) -> dict[str, Any]:
    """`moves` is yes, no, perhaps or needless. `known`: that its program has not bound it."""
    socket, kept = candidate.socket, candidate.kept
    moves, reason = "yes", ""
    if not willing:
        moves, reason = "no", KEPT
    elif kept is not None:
        moves = "needless" if kept.obstacle is Obstacle.NOTHING_TO_DO else "no"
        reason = kept.detail
    elif socket.protocol is SocketProtocol.TCP and not known:
        moves, reason = "perhaps", BY_PROGRAM
    return {**_described(socket), "owners": list(candidate.owners), "moves": moves, "reason": reason}


async def _bound(address: IPAddress) -> list[dict[str, Any]]:
    """Sockets that are not connected and have this address for their own."""
    return [
        {**_described(entry), "reason": LISTENING if entry.listening else BOUND_DATAGRAMS}
        for entry in await sockets_on(address, None)
        if entry.listening or (entry.protocol is SocketProtocol.UDP and not entry.connected)
    ]


def _described(socket: SocketInUse) -> dict[str, Any]:
    return {
        "protocol": socket.protocol.name.lower(),
        "state": socket.state.name,
        "local": endpoint(socket.local, socket.local_port),
        "remote": endpoint(socket.remote, socket.remote_port) if socket.connected else None,
    }


def endpoint(address: IPv4Address | IPv6Address, port: int) -> str:
    """As in URLs (RFC 3986 section 3.2.2)."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
