"""More sockets than the mover is asked about at once: its answers are by number, and come to the right ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from swanroam.config.model import SocketSettings
from swanroam.daemon import transport
from swanroam.daemon.transport import AT_ONCE, LocalSockets
from swanroam.kernel.sockets import SocketInUse, SocketProtocol, SocketState
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Obstacle, Transport
from swanroam.protocol.transfer import FindSockets, Key, SocketsFound
from swanroam.transport.orders import Entry, Inspect, Inspected, Place, Reason, Refusal
from unit.fake_host import configuration

A, B, P = map(ip_address, ("192.0.2.1", "192.0.2.2", "198.51.100.1"))
FIRST = 20000
AHEAD = Key(Transport.TCP, FIRST - 1, 80)
INTERFACE = 7
TCP = SocketInUse(SocketProtocol.TCP, SocketState.ESTABLISHED, 2, A, FIRST, P, 80, interface=0, inode=1, uid=0)
SOCKETS = tuple(replace(TCP, local_port=FIRST + number, inode=number + 1) for number in range(2 * AT_ONCE + 1))


def refused(port: int) -> bool:
    return port % 100 == 1


class Mover:
    """Names the local port as owner; refuses some."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.entries: list[Entry] = []

    def number(self) -> int:
        return len(self.asked)

    async def ask(self, order: Inspect, kind: type[Inspected]) -> Inspected:
        self.asked.append(len(order.entries))
        self.entries += order.entries
        ports = {index: entry.local_port for index, entry in enumerate(order.entries)}
        refusals = {index: Refusal(Reason.IO_URING, str(port)) for index, port in ports.items() if refused(port)}
        owners = {index: (f"program/{port}",) for index, port in ports.items()}
        return Inspected(order.transfer, refusals, owners, dict.fromkeys(ports, Place.OLD))


@pytest.fixture
def mover(monkeypatch: pytest.MonkeyPatch) -> Mover:
    async def connected(pair: Pair) -> tuple[SocketInUse, ...]:
        return SOCKETS if pair == Pair(A, P) else ()

    async def ahead_of(old: Pair, new: Pair) -> frozenset[Key]:
        return frozenset({AHEAD})

    monkeypatch.setattr(transport, "connected", connected)
    monkeypatch.setattr(transport, "ahead_of", ahead_of)
    return Mover()


def local_sockets(mover: Mover) -> LocalSockets:
    local = LocalSockets(SocketSettings(), lambda address: INTERFACE, lambda identity, event: None)
    local._mover = mover  # type: ignore[assignment]
    return local


def test_every_candidate_has_its_own_owner_and_reason(mover: Mover) -> None:
    found = asyncio.run(local_sockets(mover).candidates(Pair(A, P), Pair(B, P)))
    assert [candidate.socket for candidate in found] == list(SOCKETS)
    assert mover.asked == [AT_ONCE, AT_ONCE, 1]
    for candidate in found:
        port = candidate.socket.local_port
        assert candidate.owners == (f"program/{port}",)
        assert (candidate.kept is not None) == refused(port)
        assert candidate.kept is None or (candidate.kept.key.port, candidate.kept.obstacle) == (port, Obstacle.OWNER)


def test_two_sockets_of_one_name_have_the_same_verdict(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected UDP sockets may share all addresses and ports (SO_REUSEPORT)."""
    twins = tuple(
        replace(TCP, protocol=SocketProtocol.UDP, local_port=port, inode=inode)
        for inode, port in enumerate((20101, 20101, 20102), 1)
    )

    async def connected(pair: Pair) -> tuple[SocketInUse, ...]:
        return twins

    monkeypatch.setattr(transport, "connected", connected)
    found = asyncio.run(local_sockets(mover).candidates(Pair(A, P), Pair(B, P)))
    assert [(candidate.owners, candidate.kept is not None) for candidate in found] == [
        (("program/20101",), True),
        (("program/20101",), True),
        (("program/20102",), False),
    ]


def test_what_can_move_is_found_in_every_part(mover: Mover, tmp_path: Path) -> None:
    settled = frozenset({Key(Transport.TCP, FIRST, 80)})
    (peer,) = configuration(tmp_path).peers
    event = asyncio.run(local_sockets(mover).transfer(peer, FindSockets(Pair(A, P), Pair(B, P), settled)))
    assert isinstance(event, SocketsFound)
    ports = [*(socket.local_port for socket in SOCKETS[1:]), AHEAD.port]
    assert [key.port for key in event.movable] == [port for port in ports if not refused(port)]
    assert [entry.key.port for entry in event.kept] == [port for port in ports if refused(port)]


def test_what_is_ahead_is_looked_at_where_it_stands_and_may_be_bound_to_its_device(
    mover: Mover, tmp_path: Path
) -> None:
    """The interface is that of an address to which a socket is to go."""
    (peer,) = configuration(tmp_path).peers
    event = asyncio.run(local_sockets(mover).transfer(peer, FindSockets(Pair(A, P), Pair(B, P), frozenset())))
    assert isinstance(event, SocketsFound)
    assert event.ahead == {AHEAD}
    onward, *_, ahead = mover.entries
    assert (onward.local, onward.new_local, onward.interface) == (A, B, INTERFACE)
    assert (ahead.local, ahead.new_local, ahead.interface) == (B, A, 0)
