"""A mover without work ends by itself. No order is lost when one comes just then."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import pytest

from swanroam.daemon.mover import Mover, MoverError
from swanroam.kernel.sock_diag import SocketProtocol
from swanroam.transport import keeper, nursery
from swanroam.transport.keeper import Keeper
from swanroam.transport.orders import Entry, Inspect, Inspected, Order, Unlock, decode, encode

A, B, P = map(ip_address, ("192.0.2.1", "192.0.2.2", "198.51.100.1"))
UNLOCK = Unlock((Entry(SocketProtocol.TCP, A, 40000, P, 80, B, P),))


class Tracer:
    pid = 1

    async def ended(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What a keeper has unlocked."""
    done: list[object] = []

    async def remove_locks(xfrm: object, locks: Iterable[object]) -> None:
        done.extend(locks)

    monkeypatch.setattr(keeper, "remove_locks", remove_locks)
    return done


async def keep(channel: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    nothing: Any = object()
    tracer: Any = Tracer()
    await Keeper(reader, writer, nothing, tracer, ()).run()
    writer.close()


def test_an_order_that_came_before_the_end_is_carried_out(
    monkeypatch: pytest.MonkeyPatch, unlocked: list[object]
) -> None:
    """Its time is over already when it looks for the first time."""
    monkeypatch.setattr(keeper, "IDLE_LIMIT", 0.0)

    async def story() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(encode(UNLOCK))
            await keep(theirs)

    asyncio.run(story())
    assert unlocked


def test_an_order_that_comes_after_the_end_is_refused_where_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, unlocked: list[object]
) -> None:
    monkeypatch.setattr(keeper, "IDLE_LIMIT", 0.0)

    async def story() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            await keep(theirs)
            with pytest.raises(BrokenPipeError):
                ours.sendall(encode(UNLOCK))

    asyncio.run(story())
    assert not unlocked


def test_a_keeper_does_not_end_while_an_order_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "IDLE_LIMIT", 0.0)

    async def story() -> None:
        ours, theirs = socket.socketpair()
        going_on = asyncio.Event()

        async def remove_locks(xfrm: object, locks: Iterable[object]) -> None:
            if going_on.is_set():
                return
            going_on.set()
            for _ in range(50):
                await asyncio.sleep(0)
            ours.sendall(encode(UNLOCK))  # raises when it is not read any more

        monkeypatch.setattr(keeper, "remove_locks", remove_locks)
        with ours:
            ours.sendall(encode(UNLOCK))
            await keep(theirs)
        assert going_on.is_set()

    asyncio.run(story())


class Movers:
    """What stands at the other end of a daemon's channels."""

    def __init__(self) -> None:
        self.channels: list[socket.socket] = []

    def __call__(self, requests: socket.socket) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.channels.append(theirs)
        return ours

    async def order(self) -> Order:
        """The next, at the newest channel."""
        self.channels[-1].setblocking(False)
        message = decode(await asyncio.get_running_loop().sock_recv(self.channels[-1], 1 << 16))
        assert isinstance(message, Order)
        return message

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


@pytest.mark.parametrize("answered", [False, True])
def test_an_order_for_a_mover_that_is_ending_goes_to_the_next(
    monkeypatch: pytest.MonkeyPatch, *, answered: bool
) -> None:
    async def story() -> None:
        movers = Movers()
        monkeypatch.setattr(nursery, "ask", movers)
        mover = Mover(lambda transfer: None)
        mover._nursery, other = socket.socketpair()
        with other:
            await mover.tell(UNLOCK)
            assert await movers.order() == UNLOCK
            movers.channels[-1].shutdown(socket.SHUT_RD)  # as a keeper does before it closes
            if answered:
                asking = asyncio.create_task(mover.ask(Inspect(7, UNLOCK.entries), Inspected))
                while len(movers.channels) < 2 and not asking.done():
                    await asyncio.sleep(0)
                assert await movers.order() == Inspect(7, UNLOCK.entries)
                movers.channels[-1].sendall(encode(Inspected(7, {}, {}, {})))
                assert await asking == Inspected(7, {}, {}, {})
            else:
                await mover.tell(UNLOCK)
                assert len(movers.channels) == 2
                assert await movers.order() == UNLOCK
            movers.close()
            await mover.close()

    asyncio.run(story())


def test_a_mover_that_takes_nothing_twice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(requests: socket.socket) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    async def story() -> None:
        monkeypatch.setattr(nursery, "ask", gone)
        mover = Mover(lambda transfer: None)
        mover._nursery, other = socket.socketpair()
        with other:
            with pytest.raises(MoverError, match="has ended"):
                await mover.tell(UNLOCK)
            await mover.close()

    asyncio.run(story())
