"""Locks of TCP connections on the running kernel: what they stop, and that they end by themselves."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from kernel.xfrm_namespace import ENDS, Neighbor, in_namespace
from swanroam.kernel.xfrm.locks import TcpTuple, add_locks, clear_locks, find_locks, remove_locks
from swanroam.kernel.xfrm.policies import apply_owned, find_owned
from swanroam.kernel.xfrm.socket import XfrmSocket

pytestmark = pytest.mark.kernel

_PORT = 7000


@contextmanager
def connection(version: int, neighbor: Neighbor) -> Iterator[tuple[socket.socket, socket.socket, TcpTuple]]:
    """This side's socket, the neighbor's, and what the connection is called here."""
    near, far = (str(address) for address in ENDS[version])
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    listener = neighbor.call(lambda: socket.create_server((far, _PORT), family=family))
    with listener, socket.create_connection((far, _PORT)) as here, listener.accept()[0] as there:
        local = here.getsockname()
        yield here, there, TcpTuple(ip_address(near), local[1], ip_address(far), _PORT)


def readable(sock: socket.socket, seconds: float) -> bool:
    sock.settimeout(seconds)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False


@pytest.mark.parametrize("version", [4, 6])
@in_namespace
async def test_a_locked_connection_gets_nothing_until_it_is_unlocked(version: int) -> None:
    with Neighbor() as neighbor, connection(version, neighbor) as (here, there, name):
        async with XfrmSocket() as xfrm:
            await add_locks(xfrm, [name], 30)
            assert await find_locks(xfrm) == {name}
            there.send(b"x")
            assert not readable(here, 0.1)
            await remove_locks(xfrm, [name])
            assert await find_locks(xfrm) == frozenset()
            assert readable(here, 5)  # by retransmission


@pytest.mark.both
@pytest.mark.parametrize("version", [4, 6])
@in_namespace
async def test_no_reset_answers_a_locked_connection_that_nobody_has(version: int) -> None:
    with Neighbor() as neighbor, connection(version, neighbor) as (here, there, name):
        async with XfrmSocket() as xfrm:
            await add_locks(xfrm, [name], 30)
            disappear(here)
            there.send(b"x")
            assert not readable(there, 0.3)  # a reset would raise
            await remove_locks(xfrm, [name])
            with pytest.raises(ConnectionResetError):
                readable(there, 5)


def disappear(sock: socket.socket) -> None:
    """Leave the connection without a word to the peer: disconnect in TCP_REPAIR mode."""
    sock.setsockopt(socket.IPPROTO_TCP, 19, 1)
    sock.close()


@in_namespace
async def test_other_connections_of_the_same_hosts_are_not_locked() -> None:
    with Neighbor() as neighbor, connection(4, neighbor) as (here, there, name):
        async with XfrmSocket() as xfrm:
            await add_locks(xfrm, [name._replace(local_port=name.local_port ^ 1)], 30)
            there.send(b"x")
            assert readable(here, 5)


@in_namespace
async def test_the_kernel_itself_removes_a_lock_that_nobody_renews_and_keeps_one_that_is_renewed() -> None:
    renewed = TcpTuple(ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 2)
    left = renewed._replace(local_port=3)
    async with XfrmSocket() as xfrm:
        await add_locks(xfrm, [renewed, left], 1)
        await add_locks(xfrm, [renewed], 60)
    async with XfrmSocket() as xfrm, asyncio.timeout(10):
        while left in await find_locks(xfrm):
            await asyncio.sleep(0.1)
        assert await find_locks(xfrm) == {renewed}
        assert await clear_locks(xfrm) == {renewed}
        assert await find_locks(xfrm) == frozenset()


@in_namespace
async def test_reconciling_our_other_policies_leaves_locks_alone() -> None:
    name = TcpTuple(ip_address("2001:db8::1"), 1, ip_address("2001:db8::2"), 2)
    async with XfrmSocket() as xfrm:
        await add_locks(xfrm, [name], 60)
        assert not await apply_owned(xfrm, ())
        assert await find_owned(xfrm) == set()
        assert await find_locks(xfrm) == {name}


@in_namespace
async def test_locks_without_expiry_are_refused_and_removing_what_is_not_there_is_no_error() -> None:
    name = TcpTuple(ip_address("10.0.0.1"), 1, ip_address("10.0.0.2"), 2)
    async with XfrmSocket() as xfrm:
        with pytest.raises(ValueError, match="never expire"):
            await add_locks(xfrm, [name], 0)
        await remove_locks(xfrm, [name])
        assert await clear_locks(xfrm) == frozenset()
