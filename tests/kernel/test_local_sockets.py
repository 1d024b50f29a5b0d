"""The daemon's side of moving sockets, with real movers: both hosts of a connection in one namespace."""

from __future__ import annotations

import asyncio
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kernel.fresh_namespace import in_fresh_namespace, ip
from swanroam.config import PeerSettings, SocketSettings
from swanroam.daemon.socket_names import OBSTACLES
from swanroam.daemon.transport import LocalSockets
from swanroam.kernel.sockets import sockets_on
from swanroam.protocol.events import EndSockets, ReadUsage, UsageRead
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import OBSTACLES_FOR_GOOD, IPAddress, Obstacle, Transport
from swanroam.protocol.transfer import (
    FindSockets,
    InspectSockets,
    Key,
    LetGo,
    MoveSockets,
    RebuildSockets,
    SocketsFound,
    SocketsInspected,
    SocketsLetGo,
    SocketsMoved,
    SocketsStopped,
    StopSockets,
    TransferOrder,
)
from swanroam.transport.image import Reason as ImageReason
from swanroam.transport.image import Refused
from swanroam.transport.moving import refusal_for

pytestmark = pytest.mark.kernel

A, B, C, P = (ip_address(f"10.0.0.{number}") for number in (1, 3, 4, 2))
PORT = 7000
PEER = cast("PeerSettings", SimpleNamespace(identity="peer"))

SERVER = """
import socket
listener = socket.create_server(("10.0.0.2", 7000))
print("ready", flush=True)
connection, _ = listener.accept()
while data := connection.recv(1000):
    connection.sendall(data)
"""
CLIENT = """
import socket, sys
connection = socket.socket()
connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
connection.bind(("10.0.0.1", 0))
connection.connect(("10.0.0.2", 7000))
print(connection.getsockname()[1], flush=True)
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.makefile("r").readline(), end="", flush=True)
"""


class Ends:
    """Both programs and, for each host, its `LocalSockets`."""

    async def start(self) -> None:
        ip(*(f"addr add {address}/24 dev lo" for address in (A, B, C, P)))
        Path("/proc/sys/net/ipv4/conf/lo/disable_policy").write_text("0", encoding="ascii")
        settings = SocketSettings(hold=5.0)
        index = socket.if_nametoindex("lo")
        self.leader, self.follower = (LocalSockets(settings, lambda _: index, lambda *_: None) for _ in range(2))
        self.server = await self._program(SERVER)
        self.client = await self._program(CLIENT)
        self.key = Key(Transport.TCP, int(await self.said(self.client)), PORT)
        self.mirrored = Key(Transport.TCP, PORT, self.key.port)

    async def stop(self) -> None:
        for sockets in (self.leader, self.follower):
            await sockets.close()
        programs = (self.client, self.server)
        for program in programs:  # all before any is waited for: the server ends by itself when the client has
            program.kill()
        for program in programs:
            await program.wait()

    async def _program(self, code: str) -> asyncio.subprocess.Process:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        if code is SERVER:
            assert await self.said(program) == "ready"
        return program

    async def said(self, program: asyncio.subprocess.Process) -> str:
        assert program.stdout is not None
        return (await asyncio.wait_for(program.stdout.readline(), 10)).decode().strip()

    async def say(self, text: str) -> None:
        assert self.client.stdin is not None
        self.client.stdin.write(f"{text}\n".encode())
        await self.client.stdin.drain()

    async def echo(self, text: str) -> None:
        await self.say(text)
        assert await self.said(self.client) == text

    async def users(self, address: IPAddress) -> int:
        """How many of the leader's sockets keep an address of its."""
        usage = await self.leader.usage(ReadUsage(address), {P}, own=True)
        assert isinstance(usage, UsageRead)
        return usage.sockets

    async def pairs(self) -> tuple[set[Pair], set[Pair]]:
        """Where the client's, and the server's, socket stands."""
        found = [entry for entry in await sockets_on() if entry.connected and not entry.lingering]
        ours = {Pair(entry.local, entry.remote) for entry in found if entry.remote_port == PORT}
        return ours, {Pair(entry.local, entry.remote) for entry in found if entry.local_port == PORT}

    async def unlocked(self) -> None:
        """Until nothing is locked: to unlock is an order without an answer."""
        async with asyncio.timeout(10):
            while ip("xfrm policy"):
                await asyncio.sleep(0.01)

    async def lead(self, order: TransferOrder) -> Any:
        return await self.leader.transfer(PEER, order)

    async def follow(self, order: TransferOrder) -> Any:
        return await self.follower.transfer(PEER, order)


def with_ends(scenario: Any) -> None:
    async def run() -> None:
        ends = Ends()
        await ends.start()
        try:
            await scenario(ends)
        finally:
            await ends.stop()

    in_fresh_namespace(run)


async def split(ends: Ends) -> None:
    """The follower moves to B, and the leader does not hear of it."""
    stopped = await ends.lead(StopSockets(1, Pair(A, P), Pair(B, P), (ends.key,)))
    assert isinstance(stopped, SocketsStopped)
    moved = await ends.follow(
        MoveSockets(1, Pair(P, A), Pair(P, B), ((ends.mirrored, dict(stopped.numbers)[ends.key]),))
    )
    assert isinstance(moved, SocketsMoved)
    assert [key for key, _ in moved.numbers] == [ends.mirrored], moved.kept
    await ends.lead(LetGo(1, Pair(A, P), Pair(B, P), (ends.key,), doubtful=(ends.key,)))
    await ends.follow(LetGo(1, Pair(P, A), Pair(P, B), (), doubtful=(ends.mirrored,)))
    assert await ends.pairs() == ({Pair(A, P)}, {Pair(P, B)})


@pytest.mark.parametrize("leader_moves", [True, False])
def test_a_socket_that_an_earlier_transfer_left_elsewhere_is_taken_on_or_home(*, leader_moves: bool) -> None:
    async def scenario(ends: Ends) -> None:
        await ends.echo("before")
        await split(ends)
        looked = await ends.follow(InspectSockets(2, Pair(P, A), Pair(P, C), (ends.mirrored,), (Pair(P, B),)))
        assert looked == SocketsInspected(2, (), ())
        stopped = await ends.lead(StopSockets(2, Pair(A, P), Pair(C, P), (ends.key,)))
        number = dict(stopped.numbers)[ends.key]
        moved = await ends.follow(MoveSockets(2, Pair(P, A), Pair(P, C), ((ends.mirrored, number),), (Pair(P, B),)))
        assert [key for key, _ in moved.numbers] == [ends.mirrored], moved.kept
        numbers = {ends.mirrored: dict(moved.numbers)[ends.mirrored]}
        back: tuple[tuple[Key, int], ...] = ()
        if leader_moves:
            rebuilt = await ends.lead(RebuildSockets(2, ((ends.key, numbers[ends.mirrored]),)))
            assert [key for key, _ in rebuilt.numbers] == [ends.key], rebuilt.kept
            await ends.lead(LetGo(2, Pair(A, P), Pair(C, P), (ends.key,), (), (), (ends.key,), (Pair(B, P),)))
        else:
            await ends.lead(LetGo(2, Pair(A, P), Pair(C, P), (ends.key,), doubtful=(ends.key,)))
            back = ((ends.mirrored, number),)
        arrived = (ends.mirrored,) if leader_moves else ()
        end = LetGo(2, Pair(P, A), Pair(P, C), (ends.mirrored,), back, (), arrived, (Pair(P, B),))
        assert await ends.follow(end) == SocketsLetGo(2)
        if leader_moves:
            await ends.unlocked()
        place = C if leader_moves else A
        assert await ends.pairs() == ({Pair(place, P)}, {Pair(P, place)})
        await ends.echo("after")

    with_ends(scenario)


@pytest.mark.parametrize("follows", [True, False])
def test_a_socket_that_the_follower_has_left_alone_is_found_again_when_its_address_returns(*, follows: bool) -> None:
    """The follower's is at B, the leader's at A, which is the new address now: it stays, and its peer comes."""

    async def scenario(ends: Ends) -> None:
        await ends.echo("before")
        await split(ends)
        await ends.say("while nobody hears it")
        found = await ends.lead(FindSockets(Pair(B, P), Pair(A, P), frozenset()))
        assert found == SocketsFound(Pair(B, P), Pair(A, P), (ends.key,), (), frozenset({ends.key}))
        assert await ends.users(B) == 1
        looked = await ends.follow(InspectSockets(2, Pair(P, B), Pair(P, A), (ends.mirrored,)))
        assert looked == SocketsInspected(2, (), ())
        stopped = await ends.lead(StopSockets(2, Pair(B, P), Pair(A, P), (ends.key,), found.ahead))
        assert not stopped.kept
        numbers: tuple[tuple[Key, int], ...] = ()
        if follows:
            number = dict(stopped.numbers)[ends.key]
            moved = await ends.follow(MoveSockets(2, Pair(P, B), Pair(P, A), ((ends.mirrored, number),)))
            numbers = ((ends.key, dict(moved.numbers)[ends.mirrored]),)
        rebuilt = await ends.lead(RebuildSockets(2, numbers))
        assert [key for key, _ in rebuilt.numbers] == [key for key, _ in numbers], rebuilt.kept
        assert [kept.key for kept in rebuilt.kept] == ([] if follows else [ends.key])
        doubtful = () if follows else (ends.key,)
        assert await ends.lead(LetGo(2, Pair(B, P), Pair(A, P), (ends.key,), doubtful=doubtful)) == SocketsLetGo(2)
        if follows:
            await ends.follow(LetGo(2, Pair(P, B), Pair(P, A), (ends.mirrored,)))
            assert await ends.pairs() == ({Pair(A, P)}, {Pair(P, A)})
            assert await ends.said(ends.client) == "while nobody hears it"
            await ends.echo("after")
            await ends.unlocked()
            assert await ends.users(B) == 0
        else:
            assert await ends.pairs() == ({Pair(A, P)}, {Pair(P, B)})
            assert f"src {P}/32 dst {B}/32" in ip("xfrm policy")

    with_ends(scenario)


def test_what_stands_apart_is_found_at_a_pair_that_the_other_host_leads() -> None:
    """By the lock at the pair where the other end may be, and by that alone."""

    async def scenario(ends: Ends) -> None:
        await split(ends)
        for locked, keys in ((Pair(P, A), (ends.mirrored,)), (Pair(P, C), ())):
            order = FindSockets(Pair(P, B), Pair(P, C), frozenset(), (locked,))
            assert await ends.follow(order) == SocketsFound(order.old, order.new, keys, ())

    with_ends(scenario)


def test_what_keeps_an_address_from_elsewhere_is_ended_with_its_sockets() -> None:
    async def scenario(ends: Ends) -> None:
        await split(ends)
        await ends.leader.end(EndSockets(B), {P})
        assert await ends.pairs() == (set(), {Pair(P, B)})
        assert await ends.users(B) == 0

    with_ends(scenario)


def test_another_connection_at_the_new_addresses_is_left_in_peace() -> None:
    """It has the same ports by chance. Locked for the sake of the other, it would be silent for two minutes."""

    async def scenario(ends: Ends) -> None:
        with socket.socket() as other:
            other.bind((str(B), ends.key.port))
            other.connect((str(P), PORT))
            found = await ends.follow(InspectSockets(1, Pair(P, A), Pair(P, B), (ends.mirrored,)))
            assert [kept.obstacle for kept in found.kept] == [Obstacle.CHANGED], found.kept
            stopped = await ends.lead(StopSockets(1, Pair(A, P), Pair(B, P), (ends.key,)))
            assert not stopped.numbers
            assert ip("xfrm policy") == ""
        await ends.echo("after")

    with_ends(scenario)


def test_what_is_not_yet_accepted_is_not_kept_for_good() -> None:
    """A handover finds connections at any moment of their lives."""

    async def scenario(ends: Ends) -> None:
        with socket.create_server((str(P), 7001), backlog=1) as listener, socket.socket() as client:
            client.bind((str(A), 7002))
            client.connect((str(P), 7001))  # it waits to be accepted
            waiting = await ends.follow(InspectSockets(1, Pair(P, A), Pair(P, B), (Key(Transport.TCP, 7001, 7002),)))
            assert [kept.obstacle for kept in waiting.kept] == [Obstacle.OWNER], waiting.kept
            listener.accept()[0].close()

    with_ends(scenario)


@pytest.mark.parametrize("reason", ImageReason)
def test_only_what_time_does_not_change_is_kept_for_good(reason: ImageReason) -> None:
    passing = {ImageReason[name] for name in ("STATE", "REPAIR", "URGENT_DATA", "PORT_TAKEN", "PEER_DISAGREES")}
    routing = {ImageReason[name] for name in ("NO_ADDRESS", "SOURCE", "ROUTE")}
    obstacle = OBSTACLES[refusal_for(Refused(reason)).reason]
    assert (obstacle in OBSTACLES_FOR_GOOD) == (reason not in passing | routing)
    assert (obstacle is Obstacle.ROUTE) == (reason in routing)


def test_what_cannot_go_back_stays_locked_at_the_old_pair() -> None:
    """The leader is there: its next packet would be answered by a reset."""

    async def scenario(ends: Ends) -> None:
        await split(ends)
        wrong = 12345
        gone = await ends.follow(LetGo(3, Pair(P, A), Pair(P, B), (ends.mirrored,), ((ends.mirrored, wrong),)))
        assert isinstance(gone, SocketsLetGo)
        assert [kept.key for kept in gone.kept] == [ends.mirrored]
        assert f"src {A}/32 dst {P}/32" in ip("xfrm policy")
        assert await ends.pairs() == ({Pair(A, P)}, {Pair(P, B)})

    with_ends(scenario)


def test_who_has_a_socket_is_told_before_there_is_anywhere_to_go_and_after() -> None:
    """By the mover: the daemon may not look into processes of others."""

    async def scenario(ends: Ends) -> None:
        here = Pair(A, P)
        for new in (here, Pair(B, P)):
            (candidate,) = [one for one in await ends.leader.candidates(here, new) if one.key == ends.key]
            assert candidate.kept is None
            assert len(candidate.owners) == 1
            assert candidate.owners[0].endswith(f"/{ends.client.pid}")

    with_ends(scenario)
